"""Import boundaries: what each package may load, checked in fresh interpreters."""

import subprocess
import sys

import pytest

OURS = ("schemas", "pipelines", "compressor_model", "trainer")


def loaded_by(statement: str) -> set[str]:
    """Top-level names of the modules that a statement loads in a new process."""
    program = f"import sys\n{statement}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


@pytest.mark.parametrize("module", ["draws", "errors", "manifest", "shard", "vocabulary"])
def test_schemas_import_none_of_our_packages(module: str) -> None:
    assert loaded_by(f"import schemas.{module}") & set(OURS) == {"schemas"}


@pytest.mark.parametrize(
    "module",
    [
        "shard",
        "reading.corpus",
        "reading.plan",
        "reading.readers",
        "preprocess",
        "verify",
        "proxies.prepare",
        "report.command",
    ],
)
def test_pipelines_import_no_torch_and_a_worker_no_beam(module: str) -> None:
    loaded = loaded_by(f"import pipelines.{module}")
    assert not loaded & {"torch", "apache_beam", "trainer"}


def test_a_worker_of_the_codebook_needs_no_torch() -> None:
    statement = (
        "from pipelines import proxies\nfrom compressor_model.artefact import PRETRAINED\n"
        "proxies.load(f'neural:{PRETRAINED}?coder=codebook&bits=12').encode(b'x = 1')"
    )
    assert not loaded_by(statement) & {"torch", "apache_beam", "constriction"}


@pytest.mark.parametrize(
    "module",
    [
        "artefact",
        "codebook",
        "encoder",
        "fit",
        "model",
        "paper_training",
        "progress",
        "range_coder",
        "segment",
        "sizes",
        "small",
        "small_training",
        "text",
        "train",
        "trainee",
        "training_state",
        "transformer",
    ],
)
def test_compressor_model_imports_torch_and_numba_only_when_they_are_used(module: str) -> None:
    assert not loaded_by(f"import compressor_model.{module}") & {"torch", "numba", "pipelines", "trainer"}


def test_trainer_runs_where_only_torch_pyarrow_numpy_and_fsspec_are() -> None:
    assert not loaded_by("import trainer") & {"apache_beam", "numba", "pipelines", "compressor_model"}
