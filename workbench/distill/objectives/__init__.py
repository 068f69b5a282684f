"""Objectives: what is minimised. Two cover distillation, a third trains teachers."""
