"""A slow mixture of two normal distributions, to compare rdfer_jax.mixture with."""

import math

import numpy as np

FLOOR, STEPS = 1e-4, 30


def density(value, mean, variance):
    return math.exp(-((value - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)


def shares(value, components):
    """How much of a value belongs to each component (weight, mean, variance)."""
    parts = [weight * density(value, mean, variance) for weight, mean, variance in components]
    return [part / sum(parts) for part in parts]


def fit(values):
    """Returns the components (weight, mean, variance), that with the lower mean first."""
    values = [float(value) for value in values]
    mean, variance = np.mean(values), np.var(values) + FLOOR
    apart = math.sqrt(variance)
    components = [(0.5, mean - apart, variance), (0.5, mean + apart, variance)]
    for _ in range(STEPS):
        belongs = [shares(value, components) for value in values]
        components = []
        for number in range(2):
            share = [b[number] for b in belongs]
            mean = np.average(values, weights=share)
            variance = np.average((np.array(values) - mean) ** 2, weights=share) + FLOOR
            components.append((sum(share) / len(values), mean, variance))
    return sorted(components, key=lambda component: component[1])


def above(fitted_to, values):
    """Returns the probability that each value is of the component with the higher mean."""
    low, high = fit(fitted_to)
    return np.array([shares(min(max(v, low[1]), high[1]), [low, high])[1] for v in values])
