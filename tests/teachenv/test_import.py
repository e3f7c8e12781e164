from teachenv.registration import ENVIRONMENTS, RL_ENVIRONMENTS

LOOK = """
import sys
opened = []
sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None)
import teachenv, gymnasium
print([path for path in opened if path.endswith((".csv", ".gz", ".npy", ".npz", ".pkl", ".pt", "-ubyte", "_batch"))])
print([name for name in ("torchvision", "sklearn", "matplotlib", "stable_baselines3", "meta", "agents", "benchmarks",
                         "sacrebleu", "teachenv.tasks.digits", "teachenv.tasks.synthetic",
                         "teachenv.rl") if name in sys.modules])
print(sorted(name for name in gymnasium.registry if name.startswith("Teach")))
import stable_baselines3
of_others = set(sys.modules)  # versions before 2.7 import Matplotlib and pandas themselves
import benchmarks.compare.main
print([name for name in ("scipy.stats", "matplotlib", "pandas", "sklearn", "torch._dynamo", "torchvision", "tyro",
                         "sacrebleu", "pycocotools", "transformers", "ray", "ale_py", "cv2", "moviepy")
       if name in sys.modules and name not in of_others])
"""


def test_importing_reads_no_data_and_nothing_heavy_and_registers_the_environments(in_new_process):
    data, heavy, registered, of_workers = (eval(line) for line in in_new_process(LOOK).splitlines())
    assert data == []
    assert heavy == []
    assert registered == sorted({**ENVIRONMENTS, **RL_ENVIRONMENTS})
    # Each process of a comparison imports its modules anew, and none of them draws or compares seeds.
    assert of_workers == []
