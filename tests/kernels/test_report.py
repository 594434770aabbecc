import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from everscene_kernels import report


def test_only_the_linears_of_transformer_blocks_are_measured(tmp_path: Path) -> None:
    names = ["blocks.0.self_attn.q.weight", "blocks.11.cross_attn.o.weight", "blocks.0.ffn.2.weight"]
    others = ["blocks.0.self_attn.q.bias", "blocks.0.self_attn.norm_q.weight", "time_projection.1.weight"]
    save_file({name: torch.ones(16, 16) for name in names + others}, tmp_path / "one.safetensors")
    save_file({"model.blocks.1.self_attn.q.weight": torch.ones(16, 16).bfloat16()}, tmp_path / "two.safetensors")
    found = report.linears([tmp_path / "one.safetensors", tmp_path / "two.safetensors"])
    assert {place: len(matrices) for place, matrices in found.items()} == {
        "cross_attn.o": 1,
        "ffn.2": 1,
        "self_attn.q": 2,
    }


def test_errors_are_of_all_matrices_together() -> None:
    large, small = torch.full((4, 16), 10.0), torch.full((4, 16), 1.0)
    error, bits = report.error_and_bits([large, small], lambda x: (x + 1, 3.0))
    assert error == pytest.approx((2 * 64 / (64 * 101)) ** 0.5)
    assert bits == 3.0


def test_the_tables_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    report.print_table({"ffn.0": [torch.randn(32, 64)], "ffn.2": [torch.randn(32, 64)]})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| format | bits a number | all | ffn.0 | ffn.2 |"
    assert len(lines) == 8 and all(line.count("|") == 6 for line in lines)


def test_a_file_without_a_transformer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file({"decoder.weight": torch.ones(2, 2)}, tmp_path / "other.safetensors")
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path / "other.safetensors")])
    with pytest.raises(SystemExit, match="2"):
        report.main()
