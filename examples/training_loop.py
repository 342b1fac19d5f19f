"""Trains a linear classifier on one array of a cache: python training_loop.py CACHE ARRAY [TRAIN_SPLIT TEST_SPLIT]."""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader

import kinegraph

path, array, *splits = sys.argv[1:]  # as out/real/cache features/i3d/res5_pooled
train_split, test_split = splits or ("train", "test")
cache = kinegraph.open_cache(path)
train = kinegraph.CachedClips(cache, [array], split=train_split, float32=True)
test = kinegraph.CachedClips(cache, [array], split=test_split, float32=True)

torch.manual_seed(0)
channels = train.spec[array][-1]
network = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, len(cache.classes)))
optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
loader = DataLoader(range(len(train)), batch_size=64, shuffle=True, collate_fn=train.batch)
for epoch in range(20):
    for batch in loader:
        logits = network(batch[array].mean(1))  # [B, T, C] -> [B, C] -> [B, num_classes]
        loss = nn.functional.cross_entropy(logits, batch["labels"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch + 1}: loss {loss.item():.3f}")

batch = test.batch(range(len(test)))
with torch.no_grad():
    scores = network(batch[array].mean(1))
print(kinegraph.metrics.topk(scores, batch["labels"], (1,)))
