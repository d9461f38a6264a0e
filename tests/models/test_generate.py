import torch

from tests.models.conftest import Make


def test_greedy_equals_greedy_by_hand(make: Make) -> None:
    for settings in ({}, {"rule": "chunk", "chunk_length": 8, "num_buckets": 4}, {"attention_pattern": ("full",)}):
        lm = make(eos_token_id=None, **settings).eval()
        x = torch.randint(3, 40, (2, 7))
        by_hand = x
        for _ in range(9):
            by_hand = torch.cat((by_hand, lm(by_hand).logits[:, -1:].argmax(-1)), 1)
        assert torch.equal(lm.generate(x, max_new_tokens=9, do_sample=False), by_hand)


def test_left_padded_prompts_give_what_they_give_alone(make: Make) -> None:
    lm = make(eos_token_id=None).eval()
    short, long = torch.randint(3, 40, (1, 4)), torch.randint(3, 40, (1, 9))
    batch = torch.cat((torch.cat((torch.zeros(1, 5, dtype=torch.long), short), 1), long))
    out = lm.generate(batch, attention_mask=(batch != 0).long(), max_new_tokens=8, do_sample=False)
    assert torch.equal(out[0, 9:], lm.generate(short, max_new_tokens=8, do_sample=False)[0, 4:])
    assert torch.equal(out[1, 9:], lm.generate(long, max_new_tokens=8, do_sample=False)[0, 9:])


def test_sampling_and_beams(make: Make) -> None:
    lm = make(eos_token_id=None).eval()
    x = torch.randint(3, 40, (2, 7))
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        drawn.append(lm.generate(x, max_new_tokens=6, do_sample=True, top_k=10, top_p=0.9, temperature=1.5))
    assert torch.equal(*drawn)
    beams = lm.generate(x, max_new_tokens=6, num_beams=3, do_sample=False)
    assert beams.shape == (2, 13)
