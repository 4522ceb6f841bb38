"""Critical tokens by contrastive estimation (cDPO)."""
