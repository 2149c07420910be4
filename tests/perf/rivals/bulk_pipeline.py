"""Embeddings of a file's lines by transformers.pipeline(batch_size=32), pooled by the mask."""

import json
import sys

import torch
from transformers import AutoModel, AutoTokenizer, pipeline
from transformers.pipelines.base import Pipeline


class Pooled(Pipeline):
    """Feature extraction that pools by the mask, since the plain pipeline pools nothing."""

    def _sanitize_parameters(self, **kwargs):
        return {}, {}, {}

    def preprocess(self, text):
        return self.tokenizer(text, return_tensors="pt", truncation=True)

    def _forward(self, inputs):
        mask = inputs["attention_mask"].unsqueeze(-1).float()
        hidden = self.model(**inputs).last_hidden_state
        return {"pooled": torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)}

    def postprocess(self, outputs):
        return outputs["pooled"][0].tolist()


folder, source, out = sys.argv[1:]
run = pipeline(
    "feature-extraction",
    model=AutoModel.from_pretrained(folder),
    tokenizer=AutoTokenizer.from_pretrained(folder),
    pipeline_class=Pooled,
)
lines = [line.rstrip("\n") for line in open(source)]
with open(out, "w") as file:
    for embedding in run(lines, batch_size=32):
        file.write(json.dumps(embedding) + "\n")
