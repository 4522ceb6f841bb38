"""BudgetLongformer: encoders of long texts, pretrained cheaply by telling replaced tokens from original ones."""
