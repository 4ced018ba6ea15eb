"""Figures of an epoch of training."""

from __future__ import annotations

import time


class Meter:
    """Sums of an epoch; loss and accuracy are also smoothed for the bar."""

    def __init__(self) -> None:
        self.steps = self.samples = 0
        self.loss = self.accuracy = self.waited = 0.0
        self.recent: tuple[float, float] | None = None
        self.started = time.perf_counter()

    def add(self, loss: float, accuracy: float, samples: int, waited: float) -> None:
        """Count a step."""
        self.steps += 1
        self.samples += samples
        self.loss += loss
        self.accuracy += accuracy
        self.waited += waited
        old = self.recent or (loss, accuracy)
        self.recent = (0.95 * old[0] + 0.05 * loss, 0.95 * old[1] + 0.05 * accuracy)

    def row(self) -> dict[str, float]:
        """The epoch's figures."""
        seconds = time.perf_counter() - self.started
        steps = max(1, self.steps)
        return {
            "loss": self.loss / steps,
            "accuracy": self.accuracy / steps,
            "images_per_second": self.samples / seconds,
            "data_wait": self.waited / seconds,
            "seconds": seconds,
        }

    def __str__(self) -> str:
        loss, accuracy = self.recent or (0.0, 0.0)
        rate = self.samples / max(1e-9, time.perf_counter() - self.started)
        return f"loss {loss:.4f}, accuracy {accuracy:.0%}, {rate:.0f} img/s"
