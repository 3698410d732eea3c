"""Journals of evaluations: whole lines are kept, cut ones dropped, other configurations never mixed."""

from pathlib import Path

import pytest
import torch

from schemas.errors import UserError
from trainer.evaluate.journal import Journal, folder_of, model_digest, print_table, read_results
from trainer.model.evabyte import EvaByte, ModelConfig

CONFIGURATION = {"model": "ab", "context": 512}


def test_items_come_back_and_a_torn_line_is_done_again(tmp_path: Path) -> None:
    with Journal(tmp_path, "bpb", CONFIGURATION) as journal:
        journal.add("a", {"bits": 1.5})
        journal.add("b", {"bits": 0.1})
    (lines,) = tmp_path.glob("*.jsonl")
    whole = lines.read_bytes()
    for cut in range(len(whole)):
        lines.write_bytes(whole[:cut])
        with Journal(tmp_path, "bpb", CONFIGURATION) as journal:
            assert list(journal.items) == ["a", "b"][: whole[:cut].count(b"\n")]
            for key, bits in (("a", 1.5), ("b", 0.1)):
                if key not in journal.items:
                    journal.add(key, {"bits": bits})
        assert lines.read_bytes() == whole


def test_another_configuration_or_name_is_another_file_and_afresh_forgets(tmp_path: Path) -> None:
    with Journal(tmp_path, "bpb", CONFIGURATION) as journal:
        journal.add("a", {})
        first = journal.finish({"bits_per_byte": 2.0})
    for name, configuration in (("bpb", {**CONFIGURATION, "context": 256}), ("cost", CONFIGURATION)):
        with Journal(tmp_path, name, configuration) as journal:
            assert not journal.items
            assert journal.finish({}) != first
    assert [result["evaluation"] for result in read_results(tmp_path)] == ["bpb", "bpb", "cost"]
    assert read_results(tmp_path)[0]["figures"] == {"bits_per_byte": 2.0}
    with Journal(tmp_path, "bpb", CONFIGURATION, afresh=True) as journal:
        assert not journal.items
        assert not first.exists()


def test_equal_results_are_equal_files(tmp_path: Path) -> None:
    found = []
    for folder in ("one", "two"):
        with Journal(tmp_path / folder, "bpb", CONFIGURATION) as journal:
            found.append(journal.finish({"bits_per_byte": 2.0}).read_bytes())
    assert found[0] == found[1]


def test_the_digest_of_a_model_is_of_its_numbers() -> None:
    config = ModelConfig(
        dim=16, ffn=16, layers=1, heads=1, window=8, chunk=4, vocabulary_size=320, main_heads=1, raw_heads=0
    )
    model = EvaByte(config)
    model.init_weights(torch.Generator().manual_seed(0))
    before = model_digest(model)
    assert model_digest(model) == before
    with torch.no_grad():
        model.norm.weight[3] = torch.nextafter(model.norm.weight[3], torch.tensor(1.0))
    assert model_digest(model) != before
    assert model_digest(model.to(torch.bfloat16)) != before


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        Journal(tmp_path / "file" / "sub", "bpb", CONFIGURATION)
    with pytest.raises(UserError, match="give --out"):
        folder_of("s3://bucket/run", None)
    assert folder_of("runs/a", None) == Path("runs/a/evaluations")
    assert folder_of("s3://bucket/run", "here") == Path("here")


def test_a_table_is_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("", ["name", "value"], [["[red]a[/red]", 1.5]])
    assert "[red]a[/red]" in capsys.readouterr().out
