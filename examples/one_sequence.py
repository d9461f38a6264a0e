"""Train on one long sequence that several processes hold together, in a loop of one's own.

torchrun --nproc-per-node 2 examples/one_sequence.py --length 65536
"""

import argparse

import torch
import torch.distributed as dist

import reformer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=5)
    arguments = parser.parse_args()
    dist.init_process_group()
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", dist.get_rank() % torch.cuda.device_count()) if cuda else torch.device("cpu")
    share = reformer.SequenceParallel()  # all processes; with more than one sequence at a time, a group of them

    torch.manual_seed(0)  # the same weights everywhere
    config = reformer.ReformerConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=259)
    model = reformer.ReformerForCausalLM(config).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    tokens = torch.randint(3, 259, (1, arguments.length), device=device)  # the same in all of them
    part = share.part({"input_ids": tokens, "labels": tokens})

    for step in range(arguments.steps):
        loss = model(**part, sequence_parallel=share).loss  # of the whole sequence, in every process
        loss.backward()
        for weight in model.parameters():  # what DDP and FSDP do
            dist.all_reduce(weight.grad)
            weight.grad /= share.size
        optimizer.step()
        optimizer.zero_grad()
        if share.place == 0:
            print(f"step {step + 1}  loss {loss.item():.4f}")
    with torch.no_grad():
        logits = share.whole(model(part["input_ids"], sequence_parallel=share, use_cache=False).logits)
    if share.place == 0:
        print(f"logits of {logits.shape[1]:,} tokens")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
