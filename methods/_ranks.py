"""What methods need to know of the other processes of a distributed training, which torch starts one for each GPU."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def gathered(rows: Tensor) -> Tensor:
    """The rows of all processes in the order of their ranks, [N, ...] -> [world size * N, ...], without gradient.

    Every process calls it at the same place, with as many rows. In a process that trains alone these are its own.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return rows
    mine = rows.detach().contiguous()
    sent = mine.view(torch.uint8) if mine.dtype == torch.bool else mine
    parts = [torch.empty_like(sent) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, sent)
    return torch.cat(parts).view(mine.dtype)
