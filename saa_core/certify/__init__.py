"""Choosing policies that keep a promise: limits, degradation, slices, certificates, policy files, tuning."""
