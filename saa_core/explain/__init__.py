"""Why a pair was kept, what difference it makes, what a policy costs on one text."""
