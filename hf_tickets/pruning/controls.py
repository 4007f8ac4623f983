"""Controls by name: what a ticket is compared with. Read without torch.

A control changes either the mask or the weights under it, never both.
"""

# Masks with a share of their entries flipped.
FLIPPED = {"flipped_01": 0.01, "flipped_02": 0.02, "flipped_05": 0.05}

MASK_CONTROLS = {
    "random": "as many weights as the ticket keeps, drawn at random over all layers",
    "random_layerwise": "as many weights in each layer as the ticket keeps there, drawn at random",
    "oneshot": "θ0 pruned once by magnitude, without any training",
    "reverse": "the weights that the ticket prunes, in place of those that it keeps",
    **{
        name: f"the ticket with {share:.0%} of its entries flipped, half of them pruned and half restored"
        for name, share in FLIPPED.items()
    },
}

WEIGHT_CONTROLS = {
    "reinitialised": "the backbone drawn anew by the model's own initialisation (θ0′)",
    "reinitialised_prunable": "only the weights that may be pruned drawn anew",
    "shuffled": "the matrices of whole layers have traded places (θ0″)",
    "shuffled_elements": "the entries of each prunable weight have traded places",
}
