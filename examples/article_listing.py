"""The training program of a widely read Chinese article on Reformer, made to work.

The article builds `ReformerLM` with just these arguments and trains it with Adam, sparse categorical
cross-entropy from logits and an accuracy metric; as printed it cannot run, since it records a PyTorch model on
TensorFlow's tape. This is the same program in PyTorch: the same model, `train_step`, `eval_step` and printed
lines, on the source of the Python standard library. About a minute on two CPU cores.
"""

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from reformer import ReformerLM
from reformer.data.byte_tokens import VOCABULARY
from reformer.data.corpus import split_held_out, standard_library
from reformer.data.stream import join_documents
from reformer.data.windows import HeldOutWindows, TrainingWindows
from reformer.settings.phases import Phase

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--steps", type=int, default=60, help="training steps an epoch")
parser.add_argument("--test-steps", type=int, default=10)
parser.add_argument("--log-steps", type=int, default=20)
arguments = parser.parse_args()

MAX_LEN, BATCH = 512, 4
torch.manual_seed(0)

train_documents, test_documents = split_held_out(standard_library(), 0.05)
stream = join_documents(train_documents)
windows = TrainingWindows(stream, [Phase(MAX_LEN, len(stream) // MAX_LEN // BATCH)], BATCH, seed=0)
dataset = DataLoader(windows, BATCH, shuffle=True)
test_dataset = DataLoader(HeldOutWindows(join_documents(test_documents), MAX_LEN), BATCH)

model = ReformerLM(
    num_tokens=VOCABULARY,
    emb_dim=128,
    max_seq_len=MAX_LEN,
    depth=2,
    heads=4,
    lsh_dropout=0.1,
    ff_dropout=0.1,
    attn_dropout=0.1,
    return_embeddings=False,
)
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)


def loss_func(labels: Tensor, logits: Tensor) -> Tensor:
    """Sparse categorical cross-entropy from logits."""
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


def accuracy(labels: Tensor, logits: Tensor) -> Tensor:
    return (logits.argmax(-1) == labels).float().mean()


def train_step(inputs: Tensor, labels: Tensor) -> dict[str, float]:
    model.train()
    outputs = model(inputs)
    loss = loss_func(labels, outputs)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return {"loss": loss.item(), "accuracy": accuracy(labels, outputs).item()}


@torch.no_grad()
def eval_step(inputs: Tensor, labels: Tensor) -> dict[str, float]:
    model.eval()
    outputs = model(inputs)
    return {"loss": loss_func(labels, outputs).item(), "accuracy": accuracy(labels, outputs).item()}


step = 0
for epoch in range(arguments.epochs):
    for _, batch in zip(range(arguments.steps), dataset, strict=False):
        tokens = batch["input_ids"]
        train_loss = train_step(tokens[:, :-1], tokens[:, 1:])["loss"]
        step += 1
        if step % arguments.log_steps == 0:
            print("Step:", step)
            print("\tLoss:", train_loss)

    test_loss, test_acc = [], []
    for _, batch in zip(range(arguments.test_steps), test_dataset, strict=False):
        tokens = batch["input_ids"]
        eval_results = eval_step(tokens[:, :-1], tokens[:, 1:])
        test_loss.append(eval_results["loss"])
        test_acc.append(eval_results["accuracy"])

    avg_test_loss = sum(test_loss) / len(test_loss)
    avg_test_acc = sum(test_acc) / len(test_acc)
    print("Epoch:", epoch + 1, "\tAverage Test Loss:", avg_test_loss, "\tAverage Test Accuracy:", avg_test_acc)
