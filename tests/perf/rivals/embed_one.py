"""The shortest script with transformers and torch that prints one sentence embedding."""

import sys

import torch
from transformers import AutoModel, AutoTokenizer

folder, text = sys.argv[1:]
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
with torch.no_grad():
    pooled = model(**tokenizer(text, return_tensors="pt")).last_hidden_state.mean(1)
print(*torch.nn.functional.normalize(pooled, dim=1)[0].tolist())
