"""Test errors in percent that Wu et al. 2018 report (their Tables 1 and 2); no intervals, one number each."""

# By student and data, then by method. L-Softmax is their large-margin softmax.
ERRORS: dict[str, dict[str, float]] = {
    "mlp mnist": {"cross-entropy": 1.94, "smooth-01": 1.89, "large-margin": 1.83, "l2t-dlf": 1.69},
    "lenet mnist": {"cross-entropy": 0.98, "smooth-01": 0.94, "large-margin": 0.88, "l2t-dlf": 0.77},
    "resnet8 cifar10": {"cross-entropy": 12.45, "smooth-01": 12.08, "large-margin": 11.34, "l2t-dlf": 10.82},
    "resnet20 cifar10": {"cross-entropy": 8.75, "smooth-01": 8.53, "large-margin": 8.02, "l2t-dlf": 7.63},
    "resnet32 cifar10": {"cross-entropy": 7.51, "smooth-01": 7.42, "large-margin": 7.01, "l2t-dlf": 6.95},
    "wrn cifar10": {"cross-entropy": 3.80, "smooth-01": 3.81, "large-margin": 3.69, "l2t-dlf": 3.42},
    "densenet cifar10": {"cross-entropy": 3.54, "smooth-01": 3.48, "large-margin": 3.37, "l2t-dlf": 3.08},
    "resnet8 cifar100": {"cross-entropy": 39.79, "smooth-01": 39.52, "large-margin": 38.93, "l2t-dlf": 38.27},
    "resnet20 cifar100": {"cross-entropy": 32.33, "smooth-01": 32.01, "large-margin": 31.65, "l2t-dlf": 30.97},
    "resnet32 cifar100": {"cross-entropy": 30.38, "smooth-01": 30.12, "large-margin": 29.56, "l2t-dlf": 29.25},
}
