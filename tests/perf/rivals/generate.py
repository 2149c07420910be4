"""The shortest script with transformers that continues a text greedily (weights in a folder or a GGUF file)."""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

path, text, tokens = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
where = {"gguf_file": path.name} if path.is_file() else {}
folder = path.parent if path.is_file() else path
tokenizer = AutoTokenizer.from_pretrained(folder, **where)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **where)
encoded = tokenizer(text, return_tensors="pt")
made = model.generate(**encoded, max_new_tokens=tokens, do_sample=False)
print(tokenizer.decode(made[0, encoded["input_ids"].shape[1] :], skip_special_tokens=True))
