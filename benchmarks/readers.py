"""`maskmill.torch.MaskDataset` next to torchvision's ImageFolder: the same pictures, one process, CPU time.

    python -m benchmarks.readers OUT [--layers fh-1000] [--records 100]

The pictures of a finished build are written to a temporary folder as they are stored, and read by ImageFolder with its own
decoder (Pillow) to a `tv_tensors.Image`. MaskDataset reads the records and draws the masks. Rounds alternate, and the
median of their ratios is printed, so that a busy machine disturbs both alike.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

ROUNDS = 5


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="a finished build with pictures")
    parser.add_argument("--layers", help="names separated by commas (default: all)")
    parser.add_argument("--records", type=int, default=100, help="how many are read in a round")
    args = parser.parse_args()
    import torch
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    from maskmill.torch import MaskDataset

    torch.set_num_threads(1)
    layers = args.layers.split(",") if args.layers else None
    variants = {"no masks": [], "masks": layers}
    ours = {name: MaskDataset(args.folder, layers=chosen) for name, chosen in variants.items()}
    count = min(args.records, len(ours["masks"]))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "all").mkdir()
        for i in range(count):
            example = ours["masks"].dataset[i]
            (Path(folder) / "all" / f"{i:06d}.{example.format.lower()}").write_bytes(example.encoded or b"")
        theirs = ImageFolder(folder, transform=v2.ToImage())

        def cost(data) -> float:
            start = time.process_time()
            for i in range(count):
                data[i]
            return (time.process_time() - start) / count

        cost(theirs), [cost(data) for data in ours.values()]
        rounds = [(cost(theirs), {name: cost(data) for name, data in ours.items()}) for _ in range(ROUNDS)]
    masks = sum(len(ours["masks"][i][1]["masks"]) for i in range(count)) / count
    print(f"{count} pictures, {masks:.1f} masks each, {ROUNDS} rounds, CPU time of one process")
    print(f"ImageFolder              {1000 * statistics.median(t for t, _ in rounds):6.2f} ms a picture")
    for name in variants:
        each = statistics.median(own[name] for _, own in rounds)
        ratio = statistics.median(own[name] / their for their, own in rounds)
        print(f"MaskDataset, {name:9s}   {1000 * each:6.2f} ms a picture, {ratio:.2f} times ImageFolder's")


if __name__ == "__main__":
    main()
