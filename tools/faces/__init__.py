"""What the samples of the faces generator show, found out from labels by eye. The chain, in this order:

1. `tools.draw_samples` draws samples: small pictures and their latents w.
2. `tools.faces.sheets` makes contact sheets; what they show is written by hand into `labelled/*.csv`, whose
   columns `labelled/GUIDE.md` explains.
3. `tools.faces.measure` lets ready-made networks measure every sample: age, gender, landmarks, brightness.
4. `tools.faces.spread` spreads the labels to all samples, and measures on labels that it did not see.
5. `tools.faces.train_judge` does the same on samples of its own, and keeps the classifier of pictures.
6. `tools.train_clip --domain faces` trains CLIP on samples and captions of what they show.
"""
