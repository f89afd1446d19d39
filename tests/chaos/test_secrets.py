"""No secret of the environment gets into what a command writes or prints."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from chaos_study import chaos_study

pytestmark = pytest.mark.slow

# by names that tell it, by names that do not, and as a password in an address
SECRETS = {
    "HF_TOKEN": "hf_Qw3rTy7UiOpAsDfGhJkLz",
    "HUGGING_FACE_HUB_TOKEN": "hf_Zx9CvBnM1234567890QwE",
    "OPENAI_API_KEY": "sk-proj-T9xK2mPq7Lw4Vn8B",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMIK7MDENGbPxRfiCY",
    "DATABASE_PASSWORD": "correct-horse-7-battery",
    "HTTPS_PROXY": "http://proxyuser:s3cr3tproxy@127.0.0.1:9",
    "SOMETHING_ELSE": "nobody-knows-that-this-is-one",
}
BARE = (*SECRETS.values(), "s3cr3tproxy")


def contents(path: Path) -> Iterator[str]:
    """What stands in a file; Parquet packs it."""
    yield path.read_bytes().decode("latin-1")
    if path.suffix == ".parquet":
        yield str(pq.read_table(path).to_pylist())


def test_no_secret_of_the_environment_is_written_or_printed(tmp_path: Path) -> None:
    study = chaos_study(tmp_path)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study.model_dump(mode="json", exclude_unset=True)))
    environment = {**os.environ, **SECRETS, "HOME": str(tmp_path / "home"), "HF_HOME": str(tmp_path / "home" / "hub")}
    said = ""
    for arguments in (
        ("compare", "study.yaml", "--out", "runs/s", "--offline"),
        ("report", "runs/s", "--records", "runs.csv"),
        ("compare", "study.yaml", "--set", "data.train=nothing.jsonl", "--offline"),
    ):
        command = [sys.executable, "-m", "tunewise", *arguments]
        ended = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert ended.returncode == (2 if "--set" in arguments else 0), ended.stderr
        said += ended.stdout + ended.stderr
    written = {path: "".join(contents(path)) for path in tmp_path.rglob("*") if path.is_file()}
    names = {path.name for path in written}
    assert {"record.json", "log.txt", "report.html", "report.json", "README.md", "scores.parquet", "runs.csv"} <= names
    for secret in BARE:
        assert secret not in said
        assert [path for path, text in written.items() if secret in text] == []
