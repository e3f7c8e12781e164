"""Pre-trained transformers as teachers and students of texts; needs the extra `nlp` (transformers)."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import safetensors
import torch
from torch import nn

from meta.distillation.batch import Batch
from meta.distillation.learner import Outputs
from teachenv.data import Texts
from teachenv.errors import unknown_name
from teachenv.optional import needed_for

Pooling = Literal["cls", "mean"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)


def _transformers() -> Any:
    with needed_for("a text classifier"):
        return importlib.import_module("transformers")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences transformers' report of weights that a checkpoint has and a shorter network does not."""
    logging = _transformers().utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def _naming_what_is_damaged(folder: str) -> Iterator[None]:
    """Errors of transformers about damaged files say what is wrong in them, and not in which."""
    try:
        yield
    except OSError:  # these say it
        raise
    except Exception as error:
        raise OSError(
            f"{_damaged_file(Path(folder)) or folder} is damaged: transformers cannot load it "
            f"({type(error).__name__}: {str(error).splitlines()[0]}); copy an intact one there"
        ) from error


def _damaged_file(folder: Path) -> Path | None:
    for path in sorted(folder.glob("*")):
        try:
            if path.suffix == ".json":
                json.loads(path.read_bytes())
            elif path.suffix == ".safetensors":
                with safetensors.safe_open(path, "pt"):
                    pass
        except (ValueError, safetensors.SafetensorError):
            return path
    return None


def _config(path: str) -> Any:
    with _naming_what_is_damaged(path):
        return _transformers().AutoConfig.from_pretrained(path)


def layers_of(checkpoint: str | os.PathLike[str]) -> int:
    """Reads how many layers an encoder has, without its weights.

    Args:
        checkpoint: a folder, or a name on the hub, of an encoder that `transformers.AutoModel` loads.

    Raises:
        ModuleNotFoundError: transformers is not installed.
        OSError: there is no such checkpoint, or a file of it is damaged.
    """
    layers: int = _config(os.fspath(checkpoint)).num_hidden_layers
    return layers


class TextClassifier(nn.Module):
    """A pre-trained encoder with a linear classifier on what it makes of a text.

    Called with what `Tokenizer` makes; returns `Outputs` with the pooled state after each layer as hidden vectors.

    Args:
        checkpoint: a folder, or a name on the hub, of an encoder that `transformers.AutoModel` loads.
        classes: the number of classes of the task.
        layers: the number of the encoder's first layers that are kept; None: all.
        zero_classifier: whether the classifier begins with zeros, as in ProKT and LGTM; else it is drawn.
        pooling: `"cls"`, the state of the first token, as the papers do with BERT; or `"mean"` of those of all tokens,
            which sentence encoders are pre-trained with.

    Attributes:
        layers: the number of layers that the encoder has.

    Raises:
        ModuleNotFoundError: transformers is not installed.
        ValueError: more layers than the checkpoint has; an unknown pooling.
        OSError: there is no such checkpoint, or a file of it is damaged.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike[str],
        classes: int,
        layers: int | None = None,
        zero_classifier: bool = True,
        pooling: Pooling = "cls",
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise unknown_name("pooling", pooling, POOLINGS)
        self.pooling: Pooling = pooling
        transformers, path = _transformers(), os.fspath(checkpoint)
        config = _config(path)
        if layers is not None and not 1 <= layers <= config.num_hidden_layers:
            raise ValueError(f"found layers={layers}, expected 1 to {config.num_hidden_layers}, which {path} has")
        config.num_hidden_layers = layers or config.num_hidden_layers
        self.layers: int = config.num_hidden_layers
        with _quiet(), _naming_what_is_damaged(path):
            self.encoder = transformers.AutoModel.from_pretrained(path, config=config)
        # Nothing is made of a pooler here, and parameters without a gradient are only in the way.
        self.encoder.pooler = None
        self.dropout = nn.Dropout(getattr(config, "hidden_dropout_prob", 0.0))
        self.head = nn.Linear(config.hidden_size, classes)
        if zero_classifier:
            nn.init.zeros_(self.head.weight)
        else:
            nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.train()  # transformers gives the encoder in evaluation mode

    def forward(self, inputs: dict[str, torch.Tensor]) -> Outputs:
        """Computes the outputs for a tokenised batch."""
        states = self.encoder(**inputs, output_hidden_states=True).hidden_states[1:]
        hidden = tuple(self._pooled(state, inputs["attention_mask"]) for state in states)
        return Outputs(self.head(self.dropout(hidden[-1])), hidden)

    def _pooled(self, state: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Takes the states of tokens, (B, tokens, d), to one for each text, (B, d); `mask` is 0 at padding."""
        if self.pooling == "cls":
            return state[:, 0]
        weights = mask.to(state.dtype)[..., None]
        return (state * weights).sum(1) / weights.sum(1)


class Tokenizer:
    """Turns texts into batches for `TextClassifier`.

    Args:
        checkpoint: a folder, or a name on the hub, with a tokenizer; teacher and student must share the vocabulary.
        max_length: the number of tokens to which texts are cut and padded.

    Raises:
        ModuleNotFoundError: transformers is not installed.
        OSError: there is no such checkpoint, or a file of it is damaged.
        ValueError: the tokenizer is of another network.
    """

    def __init__(self, checkpoint: str | os.PathLike[str], max_length: int = 128) -> None:
        transformers, path = _transformers(), os.fspath(checkpoint)
        with _naming_what_is_damaged(path):
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(path)
        vocabulary_size = _config(path).vocab_size  # of words' vectors
        if len(self._tokenizer) > vocabulary_size:
            raise ValueError(
                f"the tokenizer in {path} has {len(self._tokenizer)} tokens and its network knows {vocabulary_size}; "
                "copy files that belong together there"
            )
        self.max_length = max_length

    def __call__(self, texts: Texts) -> Batch:
        """Turns all texts into one batch of (n, max_length) tokens; `Batch.at` takes minibatches from it."""
        pairs = (texts.first,) if texts.second is None else (texts.first, texts.second)
        tokens = self._tokenizer(
            *pairs, truncation=True, max_length=self.max_length, padding="max_length", return_tensors="pt"
        )
        return Batch(dict(tokens), torch.as_tensor(texts.labels))
