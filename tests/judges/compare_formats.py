"""What number formats cost the pocket model: accuracy, drift, and distance of a chunk from the same noise.

    PYTHONPATH=engine:bridge:kernels:. python -m tests.judges.compare_formats --steps 2 --out runs/formats

A format is that of the linears, or that and of the KV cache: bf16, fp8, nvfp4, nvfp4+nvfp4. The distance is to the
first that is named. `formats.py` tells what is computed how. Prints a Markdown table, and writes it with all figures to
`--out` after each format.
"""

import argparse
import json
import time

import torch

from tests.judges import plays as ask
from tests.judges.conditions import conditions
from tests.judges.distance import chunks_from_noise, distances, past_of
from tests.judges.evaluate import Examiner, add_options, model_of, model_source, size_of
from tests.judges.figures import Figure, table
from tests.judges.formats import in_precision
from tests.judges.reader import load

FORMATS = ("bf16", "fp8", "nvfp4", "nvfp4+nvfp4")


def chosen(switched: dict[str, Figure], steady: dict[str, dict[str, Figure]]) -> dict[str, Figure]:
    """The figures that the table has, of all that were measured."""
    rows = {name: figure for name, figure in switched.items() if "new attribute of any kind" in name}
    rows |= {name: figure for name, figure in switched.items() if "same subject" in name or "not changed" in name}
    *seconds, mean, _ = steady
    for second in dict.fromkeys((seconds[0], seconds[-1], mean)):
        for name in ("setting, time and weather", "subject there", "same subject"):
            rows[f"one prompt, {second}: {name}"] = steady[second][name]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--formats", default=",".join(FORMATS), help="default: %(default)s")
    parser.add_argument("--noise-clips", type=int, default=16, help="chunks from the same noise, for each seed")
    parser.set_defaults(seconds_after="1,10", held_out_clips=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    device = torch.device(options.device)
    judges, size = load(options.judges, device), size_of(options)

    noise_plays = size.plays(lambda seed: ask.steady(seed, options.noise_clips))
    columns: dict[str, dict[str, Figure]] = {}
    reference: tuple[torch.Tensor, torch.Tensor] | None = None
    for name in options.formats.split(","):
        start = time.monotonic()
        precision, _, kv = name.partition("+")
        model, kv = in_precision(model_of(options), precision), kv or "bf16"
        if reference is None:
            past = past_of(model, noise_plays, options.steps)
        made = (
            chunks_from_noise(model, noise_plays, options.steps, kv, None),
            chunks_from_noise(model, noise_plays, options.steps, kv, past),
        )
        reference = reference or made
        source = model_source(model, options.steps, kv)
        examiner = Examiner(judges, size, source, lambda way: lambda question, frames: None)
        columns[name] = {
            **chosen(examiner.switches("recache"), examiner.steady(True)),
            **distances(judges, model.autoencoder, noise_plays, past, reference, made),
        }
        print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
        head = conditions(options, options.steps or model.stream.steps, model.stream.recache_depth)
        figures = {name: {row: figure.json() for row, figure in rows.items()} for name, rows in columns.items()}
        text = f"{json.dumps(head)}\n\n{table(columns, list(next(iter(columns.values()))))}"
        (options.out / "formats.json").write_text(json.dumps({**head, **figures}, indent=1) + "\n")
        (options.out / "formats.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
