"""`python -m pipelines measure`: what a proxy does to a corpus, before a model is trained on it.

`stability.py` and `fuzziness.py` are the commands; `variants.py` names the proxies, `sample.py` takes the text,
`page.py` shows what lies in a folder of results.
"""
