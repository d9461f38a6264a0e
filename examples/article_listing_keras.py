"""The training program of a widely read Chinese article on Reformer, made to work in Keras 3.

The article builds `ReformerLM` with just these arguments and trains it with Adam, sparse categorical
cross-entropy from logits and an accuracy metric, in a loop of its own; `--fit` uses Keras's instead. Both print the
article's lines. On the source of the Python standard library; about a minute on two CPU cores.
"""

import argparse

import numpy as np
import torch
from torch.utils.data import DataLoader

from reformer.data.byte_tokens import VOCABULARY
from reformer.data.corpus import split_held_out, standard_library
from reformer.data.stream import join_documents
from reformer.data.windows import HeldOutWindows, TrainingWindows
from reformer.keras import ReformerLM  # in front of keras: it chooses the torch backend
from reformer.settings.phases import Phase

import keras  # isort: skip

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--steps", type=int, default=60, help="training steps an epoch")
parser.add_argument("--test-steps", type=int, default=10)
parser.add_argument("--log-steps", type=int, default=20)
parser.add_argument("--fit", action="store_true", help="train with model.fit")
arguments = parser.parse_args()

MAX_LEN, BATCH = 512, 4
keras.utils.set_random_seed(0)

train_documents, test_documents = split_held_out(standard_library(), 0.05)
stream = join_documents(train_documents)
windows = TrainingWindows(stream, [Phase(MAX_LEN, len(stream) // MAX_LEN // BATCH)], BATCH, seed=0)
test_windows = HeldOutWindows(join_documents(test_documents), MAX_LEN)


def read(windows: torch.utils.data.Dataset, steps: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Batches of inputs and of labels, which are the next tokens."""
    batches = zip(range(steps), DataLoader(windows, BATCH, shuffle=windows is not test_windows), strict=False)
    tokens = [batch["input_ids"].numpy() for _, batch in batches]
    return [(batch[:, :-1], batch[:, 1:]) for batch in tokens]


test_dataset = read(test_windows, arguments.test_steps)

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
optimizer = keras.optimizers.Adam(learning_rate=2e-3)
loss_func = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
acc_metric = keras.metrics.SparseCategoricalAccuracy("accuracy")


def train_step(inputs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    outputs = model(inputs, training=True)
    loss = loss_func(labels, outputs)
    model.zero_grad()
    loss.backward()
    with torch.no_grad():
        optimizer.apply([variable.value.grad for variable in model.trainable_variables], model.trainable_variables)
    acc_metric.update_state(labels, outputs)
    return {"loss": float(loss), "accuracy": float(acc_metric.result())}


@torch.no_grad()
def eval_step(inputs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    outputs = model(inputs)
    acc_metric.update_state(labels, outputs)
    return {"loss": float(loss_func(labels, outputs)), "accuracy": float(acc_metric.result())}


class ArticleLines(keras.callbacks.Callback):
    """The article's lines, from `fit`."""

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        step = int(self.model.optimizer.iterations)
        if step % arguments.log_steps == 0:
            print("Step:", step)
            print("\tLoss:", (logs or {})["loss"])

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        found = logs or {}
        report(epoch, found["val_loss"], found["val_accuracy"])


def report(epoch: int, avg_test_loss: float, avg_test_acc: float) -> None:
    print("Epoch:", epoch + 1, "\tAverage Test Loss:", avg_test_loss, "\tAverage Test Accuracy:", avg_test_acc)


def join(batches: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    inputs, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return inputs, labels


if arguments.fit:
    model.compile(optimizer=optimizer, loss=loss_func, metrics=[acc_metric])
    dataset, validation = join(read(windows, arguments.steps)), join(test_dataset)
    model.fit(
        *dataset,
        batch_size=BATCH,
        epochs=arguments.epochs,
        validation_data=validation,
        validation_batch_size=BATCH,
        callbacks=[ArticleLines()],
        verbose=0,
    )
else:
    step = 0
    for epoch in range(arguments.epochs):
        for inputs, labels in read(windows, arguments.steps):
            train_loss = train_step(inputs, labels)["loss"]
            step += 1
            if step % arguments.log_steps == 0:
                print("Step:", step)
                print("\tLoss:", train_loss)

        test_loss, test_acc = [], []
        acc_metric.reset_state()
        for inputs, labels in test_dataset:
            eval_results = eval_step(inputs, labels)
            test_loss.append(eval_results["loss"])
            test_acc.append(eval_results["accuracy"])
        acc_metric.reset_state()

        report(epoch, sum(test_loss) / len(test_loss), test_acc[-1])
