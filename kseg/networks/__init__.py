"""Networks: each module is a function from an image tensor to low-resolution logits."""
