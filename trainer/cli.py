"""The commands of `python -m trainer`."""

from collections.abc import Sequence

from schemas import command_line
from schemas.command_line import Command

COMMANDS = {
    "train": Command("trainer.train", "TrainOptions", "train", "datasets -> a byte-level model"),
    "generate": Command("trainer.inference.generate", "GenerateOptions", "generate", "bytes in, bytes out"),
    "evaluate all": Command("trainer.evaluate.whole", "AllOptions", "evaluate", "every evaluation of a run"),
    "evaluate bpb": Command("trainer.evaluate.bpb", "BpbOptions", "evaluate", "bits per byte, held out"),
    "evaluate translation": Command(
        "trainer.evaluate.translation", "TranslationOptions", "evaluate", "raw bytes after their comp view"
    ),
    "evaluate humaneval": Command(
        "trainer.evaluate.programs.humaneval", "HumanevalOptions", "evaluate", "pass@k of programs"
    ),
    "evaluate robustness": Command(
        "trainer.evaluate.programs.robustness", "RobustnessOptions", "evaluate", "robust pass@1 under perturbed prompts"
    ),
    "evaluate cost": Command("trainer.evaluate.cost", "CostOptions", "evaluate", "what inference costs"),
    "study": Command("trainer.study.command", "StudyOptions", "study", "many runs compared, by one plan"),
    "export": Command("trainer.huggingface.export", "ExportOptions", "export", "a run -> a Hugging Face folder"),
    "plan": Command("trainer.planning.plan", "PlanOptions", "plan", "what a run takes: memory, time, cost"),
    "plot": Command("trainer.plot", "PlotOptions", "plot", "loss curves of runs, as a picture"),
}


def run(arguments: Sequence[str]) -> int:
    """Run a command and return the exit status, see `schemas.command_line`."""
    return command_line.run("trainer", COMMANDS, arguments)
