"""What `epochal train --help` says of the settings; it imports nothing that training needs."""

OFTEN_CHANGED = """settings that are often changed (the shipped tiny-ar's value in brackets):
  train_loader.dataset.path=SUBSET   what is trained on
  eval_loader.dataset.path=POOL-val  what the loss is measured on (eval_loader=null: nothing)
  max_duration=5ep                   passes over the subset (10ep), or tokens: 96B
  global_train_batch_size=32         samples a step (16)
  optimizer.lr=1e-3                  learning rate (2e-3)
  model.layers=4 model.hidden=256 model.heads=4 or model.preset=30m
  device=gpu precision=amp_bf16      where and how it computes (cpu, fp32)
  save_folder=runs/mine              where results go (runs/NAME of run_name)
  seed=18                            of weights, order and noise (17)
  service=http://127.0.0.1:8642      reports to `epochal serve` there (none)"""
