"""Patch-parallel sampling in real processes: the bands of `patches`, one a process, over torch.distributed."""

from __future__ import annotations

import contextlib
import datetime
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.denoiser import Denoiser, Guided, Network
from workbench.errors import WorkbenchError, check_count, unknown
from workbench.inference.patches import Bands, band_prediction, band_seen, bands_of
from workbench.inference.resolution import final, fixed
from workbench.inference.tokens import as_model
from workbench.samplers.plan import Plan
from workbench.samplers.run import run

BACKENDS = ("gloo", "nccl")


class _Member:
    """One band in its own process: sends what others will see at the next evaluation while it computes on."""

    def __init__(self, net: Any, bands: Bands, warmup: int, rank: int):
        self.net, self.bands, self.warmup, self.rank, self.calls, self.numbers = net, bands, warmup, rank, 0, 0
        self.kept: dict[int, Tensor] = {}
        self.pending: dict[int, tuple] = {}

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None, s: Tensor | None = None) -> Tensor:
        predicted = band_prediction(self.net, x, t, cond, s, self.bands.cuts[self.rank], self._attention)
        self.calls += 1
        return predicted

    def _attention(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self._arrive(layer)
        kept, own = self.kept.get(layer), torch.stack([k, v])
        if self.calls < self.warmup or kept is None or kept.shape[1] != len(k):
            kept = own.new_zeros(2, *k.shape[:2], self.bands.cuts[-1] * self.bands.columns, k.shape[3])
            first, last = self.bands.own(self.rank)
            kept[:, :, :, first:last] = own
            self.kept[layer] = kept
            self._send(layer, own, all_rows=True)
            self._arrive(layer)
            return F.scaled_dot_product_attention(q, *kept)
        seen = band_seen(self.bands, self.rank, (k, v), (kept[0], kept[1]))
        self._send(layer, own)
        return F.scaled_dot_product_attention(q, *seen)

    def _send(self, layer: int, own: Tensor, all_rows: bool = False) -> None:
        from torch import distributed

        operations, arriving, begin = [], [], self.bands.own(self.rank)[0]
        for peer in range(len(self.bands.cuts) - 1):
            if peer == self.rank:
                continue
            first, last = self.bands.sent(self.rank, peer, all_rows)
            if last > first:
                leaving = own[:, :, :, first - begin : last - begin].contiguous()
                self.numbers += leaving.numel()
                operations.append(distributed.P2POp(distributed.isend, leaving, peer))
            first, last = self.bands.sent(peer, self.rank, all_rows)
            if last > first:
                room = own.new_empty(*own.shape[:3], last - first, own.shape[4])
                arriving.append((first, last, room))
                operations.append(distributed.P2POp(distributed.irecv, room, peer))
        works = distributed.batch_isend_irecv(operations) if operations else []
        self.pending[layer] = works, arriving, operations  # the operations hold what is being sent

    def _arrive(self, layer: int) -> None:
        works, arriving, _ = self.pending.pop(layer, ((), (), ()))
        for work in works:
            work.wait()
        for first, last, room in arriving:
            self.kept[layer][:, :, :, first:last] = room

    def finish(self) -> None:
        """Wait for what is still on its way, so that the next run begins with empty lines."""
        for layer in list(self.pending):
            self._arrive(layer)


class PatchSamples(NamedTuple):
    """Samples (n, c, h, w), and how many numbers the processes sent to each other."""

    x: Tensor
    numbers: int


class PatchGroup:
    """Processes that sample one picture together, each its band; started once, used for many runs.

    In a script, make it under `if __name__ == "__main__":` (the processes are spawned). Evaluations take 1 / ranks of the
    tokens each; sending overlaps with computing after warm-up.

    Args:
        model: its net is a workbench DiT; its weights are copied. ranks: processes, at most the rows of tokens.
        backend: "gloo" on CPUs; "nccl" with a GPU a process. timeout: seconds after which a silent process is an error.

    Raises:
        WorkbenchError: for another network or backend, or too few GPUs.

    Source: as `patch_run`, whose samples these are.
    Measured: two gloo processes and the emulation differ by 0 (digits, n = 64, 32 steps); one row instead of all of the other
    band sends 0.53 of the numbers (seed 0, benchmarks/inference_more.py). nccl follows the same lines, but has not been run.

    Example (starts two processes)::

        with PatchGroup(wb.load("digits/teacher"), ranks=2) as group:
            samples = group.sample(wb.plan("euler", "linear", 25), torch.randn(4, 1, 8, 8), warmup=4).x
    """

    def __init__(self, model: Denoiser, ranks: int = 2, backend: str = "gloo", timeout: float = 300.0):
        if backend not in BACKENDS:
            raise unknown("backend", backend, BACKENDS)
        if backend == "nccl" and torch.cuda.device_count() < ranks:
            raise WorkbenchError(f"nccl needs a GPU a process: {ranks} processes, {torch.cuda.device_count()} GPUs; use gloo.")
        self.cuts, self.model, self.timeout = bands_of(model, ranks).cuts, model, timeout
        self._folder = tempfile.TemporaryDirectory(prefix="patches-", ignore_cleanup_errors=True)
        config = {name: value for name, value in model.net.config.items() if not name.startswith("_")}
        weights = {name: value.detach().cpu().clone() for name, value in model.net.state_dict().items()}
        facts = (model.path.name, model.kind, model.classes, model.two_times)
        context = torch.multiprocessing.get_context("spawn")
        threads = max(1, torch.get_num_threads() // ranks)
        self._lines, self._processes = [], []
        for rank in range(ranks):
            ours, theirs = context.Pipe()
            meet = (Path(self._folder.name) / "meet").as_uri()
            args = (rank, ranks, meet, backend, timeout, threads, config, weights, facts, theirs)
            process = context.Process(target=_work, args=args, daemon=True)
            process.start()
            theirs.close()
            self._lines.append(ours)
            self._processes.append(process)

    def sample(
        self, plan: Plan, noise: Tensor, cond: Any = None, warmup: int = 4, width: int | None = None, guidance: float = 1.0
    ) -> PatchSamples:
        """Samples of a deterministic plan; arguments as for `patch_run`.

        Raises:
            WorkbenchError: for a plan with noise, or when a process fails or stays silent.
        """
        if not self._processes:
            raise WorkbenchError("this group is closed: make a new PatchGroup.")
        if any(stage.x.noise or (stage.base and stage.base.noise) for stage in fixed(plan).stages):
            raise WorkbenchError(f"{plan} adds noise, which bands would not share: use a deterministic sampler or patch_run.")
        bands = bands_of(self.model, len(self.cuts) - 1, width)
        run(plan, self.model, noise, cond)  # its checks, before any process waits for another
        if tuple(noise.shape[1:]) != tuple(self.model.shape):
            raise WorkbenchError(f"noise has shape {tuple(noise.shape)}, but this model draws (n, {self.model.shape}).")
        cond = None if cond is None else torch.as_tensor(cond).cpu()
        task = (plan.to_json(), bands, check_count("warmup", warmup, 1), guidance, cond)
        edges = [cut * self.model.net.config.patch for cut in self.cuts]
        for rank, line in enumerate(self._lines):
            line.send((*task, noise[:, :, edges[rank] : edges[rank + 1]].detach().cpu().contiguous()))
        parts, numbers = zip(*(self._answer(line) for line in self._lines), strict=True)
        return PatchSamples(torch.cat(parts, 2).to(noise.device), sum(numbers))

    def _answer(self, line: Any) -> tuple[Tensor, int]:
        try:
            found = line.recv() if line.poll(self.timeout) else f"no answer within {self.timeout:g} s"
        except (EOFError, OSError):
            found = "it ended"
        if isinstance(found, str):
            self.close()
            raise WorkbenchError(f"a process of the patch group failed ({found}): make a new PatchGroup.")
        return found

    def close(self) -> None:
        """End the processes; a closed group cannot be used again."""
        for line in self._lines:
            with contextlib.suppress(OSError):  # it has ended already
                line.send(None)
        for line, process in zip(self._lines, self._processes, strict=True):
            with contextlib.suppress(OSError, EOFError):
                while line.poll(5):  # until it has left the group and hangs up
                    line.recv()
            process.terminate()  # what is left is two seconds of tearing down an interpreter
            process.join()
        self._lines, self._processes = [], []
        self._folder.cleanup()

    def __enter__(self) -> PatchGroup:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _work(
    rank: int,
    ranks: int,
    meet: str,
    backend: str,
    timeout: float,
    threads: int,
    config: dict,
    weights: dict,
    facts: tuple,
    line: Any,
) -> None:
    """What a process of a group does until it is told to stop."""
    from torch import distributed

    from workbench.networks.dit import DiT

    torch.set_num_threads(threads)
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    limit = datetime.timedelta(seconds=timeout)
    distributed.init_process_group(backend, init_method=meet, rank=rank, world_size=ranks, timeout=limit)
    path, kind, classes, two_times = facts
    net = DiT(**config)
    net.load_state_dict(weights)
    net = net.to(device).eval().requires_grad_(False)
    whole = Network(net, path, kind, (config["channels"], config["image_size"], config["image_size"]), classes, two_times)
    try:
        while (task := line.recv()) is not None:
            plan, bands, warmup, guidance, cond, noise = task
            member = _Member(net, bands, warmup, rank)
            own = as_model(whole, member, tuple(noise.shape[1:]))
            try:
                cond = cond if cond is None else cond.to(device)
                model = Guided(own, guidance) if guidance != 1 else own
                x = final(run(Plan.from_json(plan), model, noise.to(device), cond)).x
                member.finish()
                line.send((x.cpu(), member.numbers))
            except Exception as error:
                line.send(f"{type(error).__name__}: {error}")
                return
    except EOFError:  # the parent is gone
        return
    finally:
        distributed.destroy_process_group()
        line.close()
