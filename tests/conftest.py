import gc
import itertools
import multiprocessing
import multiprocessing.forkserver

import pytest
import torch

# One thread: test workers share the cores, and the last bits of a sum may depend on how many threads made it.
torch.set_num_threads(1)


@pytest.hookimpl(hookwrapper=True)
def pytest_collection():
    """Leaves the half million objects that imports make, none of which is garbage, to no garbage collection."""
    gc.disable()
    yield
    gc.enable()
    gc.freeze()


def pytest_runtest_setup(item):
    """Skips what needs a GPU where there is none."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("PyTorch sees no GPU")


# What a new process does; what it prints, and what it says on the error stream, goes to files.
_IN_NEW_PROCESS = """
import sys
sys.argv, code, printed, said = {}
sys.stdout, sys.stderr = open(printed, "w"), open(said, "w")
exec(compile(code, "code", "exec"), dict(__name__="__main__"))
"""


@pytest.fixture(scope="session")
def in_new_process(tmp_path_factory):
    """Runs Python code in a new process, and returns what it printed.

    The processes are forks of one that has imported torch and done nothing else: the import alone takes two seconds.
    """
    folder, numbers = tmp_path_factory.mktemp("processes"), itertools.count()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        multiprocessing.forkserver.ensure_running()

    def run(code: str, *arguments: object) -> str:
        number = next(numbers)
        printed, said = (folder / f"{number}.{name}" for name in ("out", "err"))
        told = (["-c", *map(str, arguments)], code, str(printed), str(said))
        process = context.Process(target=exec, args=(_IN_NEW_PROCESS.format(told), {}))
        process.start()
        process.join()
        assert process.exitcode == 0, said.read_text()
        return printed.read_text()

    return run


@pytest.fixture(scope="session")
def make_bert(tmp_path_factory):
    """Makes a random BERT with a vocabulary of given words, and returns its folder."""

    def make(words, hidden_size, layers):
        transformers = pytest.importorskip("transformers")
        folder = tmp_path_factory.mktemp("bert")
        vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
        (folder / "vocab.txt").write_text("\n".join(vocabulary))
        config = transformers.BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=hidden_size,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=2 * hidden_size,
            max_position_embeddings=64,
        )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            transformers.BertModel(config).save_pretrained(folder)
        transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def few_test_sentences():
    """Leaves few test sentences to the tasks of number words, for tests that do not need 400: decoding them is slow."""

    def shorten(patch):
        from teachenv.tasks import translation

        data, vocabulary, pairs = translation._numbers()
        few = (data, vocabulary, {**pairs, "test": pairs["test"][:20]})
        patch.setattr(translation, "_numbers", lambda: few)

    return shorten


@pytest.fixture
def few_images(monkeypatch):
    """A hundred procedural images at most: to draw six thousand takes longer than most of what is done with them."""
    from teachenv.tasks import synthetic

    draw = synthetic._draw_split
    monkeypatch.setattr(synthetic, "_draw_split", lambda size, *arguments: draw(min(size, 100), *arguments))


@pytest.fixture
def few_scenes(monkeypatch):
    """Forty scenes of shapes at most, for tests that measure on them without asking how many there are."""
    from teachenv.tasks import detection, segmentation, shapes

    for task in (detection, segmentation):
        monkeypatch.setattr(task, "draw_scenes", lambda count, *others: shapes.draw_scenes(min(count, 40), *others))


@pytest.fixture(scope="session")
def leave_undrawn():
    """Has figures made, but not drawn, which takes longest: for tests of what else a report has."""

    def not_saved(animation):
        animation._draw_was_started = True  # else Matplotlib warns that it was for nothing
        return b""

    def patched(patch):
        patch.setattr("teachenv.plot.files.png", lambda figure: b"")
        patch.setattr("teachenv.plot.files.gif", not_saved)
        patch.setattr("teachenv.plot.files.svg", lambda figure, name: "<svg ></svg>")

    return patched


@pytest.fixture
def undrawn(monkeypatch, leave_undrawn):
    """See `leave_undrawn`."""
    leave_undrawn(monkeypatch)
