"""The page about sharded training shows what its example prints."""

import subprocess
import sys

import pytest

import docs


@pytest.mark.slow
def test_the_example_with_fsdp_prints_what_its_page_shows(tmp_path):
    shown = (docs.ROOT / "docs" / "scale" / "distributed.md").read_text(encoding="utf-8")
    for count, arguments in ((2, []), (4, ["run", "20"]), (2, ["run", "30"])):
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        done = subprocess.run(
            [*launcher, str(docs.ROOT / "examples" / "fsdp.py"), *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        command = " ".join(["torchrun --standalone --nproc-per-node", str(count), "examples/fsdp.py", *arguments])
        assert f"$ {command}\n{done.stdout}" in shown
