"""The whole desired state as one value, and its difference to what is. Pure, level-triggered."""
