"""Metrics with 95 % intervals, each an `evaluate.Metric` that works without a network.

    predictions, references --statistics--> array (n, k) --sum--> (k,) --aggregate--> value
                                                --resampled_sums--> (R, k) --aggregate--> R values --> interval

| name | class | scale |
| --- | --- | --- |
| bleu, chrf, ter | translation.Bleu, ChrF, Ter | 0-100; ter: lower is better, may exceed 100 |
| rouge1, rouge2, rougeL, rougeLsum | summarization.Rouge | 0-100 |
| accuracy, macro_f1, mcc | classification.Accuracy, MacroF1, Mcc | 0-1, 0-1, -1 to 1 |
| exact_match, f1 | qa.Squad | 0-100 |
| bertscore | bertscore.BertScore | 0-100; needs the extra and a model's folder |
| perplexity, bits_per_byte | likelihood.LanguageModeling | from 1, from 0; lower is better |

The classes import evaluate (and with it torch: 10 s and more), so they are imported when something is scored.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
