"""A training loop of your own over a repeated subset: stopped in the middle, and gone on with where it was.

python -m epochal.examples.torch_loader artifacts/subsets/mine-500k --passes 4
"""

import argparse
import sys
from collections.abc import Sequence

import epochal
from epochal.common.cli import run_plainly


def run(words: Sequence[str]) -> int:
    """Train the first half of the steps; then, from the saved state, the rest. Print the loss and what was read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subset", metavar="SUBSET", help="folder or URL of a subset or pool")
    parser.add_argument("--passes", type=int, default=4, metavar="K", help="over the subset (default 4)")
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="samples of a step (default 8)")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that load (default 0)")
    args = parser.parse_args(words)
    import torch
    from torch.nn import functional

    torch.manual_seed(0)
    manifest = epochal.open_artifact(args.subset).manifest
    plan = epochal.Plan.for_artifact(manifest, total_tokens=args.passes * manifest.tokens, seed=0)
    vocabulary = manifest.tokenizer.vocab_size
    # Which token follows which: the smallest model that can learn something.
    model = torch.nn.Sequential(torch.nn.Embedding(vocabulary, 16), torch.nn.Linear(16, vocabulary))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)

    def train(state: dict | None, steps: int) -> tuple[dict, list[int]]:
        """Take up to so many steps from a state on; return the new state, and the positions that were read."""
        dataset = epochal.RepeatedDataset(args.subset, plan, global_batch=args.batch)
        if state is not None:
            dataset.load_state_dict(state)
        read: list[int] = []
        for batch, _ in zip(dataset.loader(num_workers=args.workers), range(steps), strict=False):
            tokens = batch["tokens"]  # int64 (batch, seq_len)
            real = torch.arange(tokens.shape[1]) < batch["n_tokens"][:, None]  # the last sample may end in padding
            targets = tokens[:, 1:].masked_fill(~real[:, 1:], -100)
            loss = functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), targets.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            read += batch["position"].tolist()
        print(f"positions {read[0]} to {read[-1]}, loss {loss.item():.3f}")
        return dataset.state_dict(len(read), from_beginning=False), read

    steps = -(-plan.positions // args.batch)
    state, first = train(None, steps // 2)  # `state` is JSON: it belongs into your checkpoint
    _, rest = train(state, steps)
    assert first + rest == list(range(plan.positions)), "a position was left out or read twice"
    print(f"{args.passes} passes over {manifest.tokens:,} unique tokens, every position once")
    return 0


if __name__ == "__main__":
    sys.exit(run_plainly(run, sys.argv[1:]))
