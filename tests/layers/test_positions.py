import math

import torch

from reformer.layers.norm import make_norm
from reformer.layers.positions import AxialPositions, LearnedPositions, SinusoidalPositions, compute_waves, rotate


def test_axial_positions_are_a_grid() -> None:
    axial = AxialPositions((3, 4, 2), (2, 5, 1))
    positions = torch.arange(24)[None]
    out = axial(positions, torch.float32)
    assert out.shape == (1, 24, 8)
    for p in range(24):
        i, j, k = p // 8, p // 2 % 4, p % 2
        a, b, c = (table.weight for table in axial.tables)
        assert torch.equal(out[0, p], torch.cat((a[i], b[j], c[k])))


def test_sinusoidal_positions() -> None:
    out = SinusoidalPositions(6)(torch.tensor([[0, 5]]), torch.float64)
    assert out[0, 0].tolist() == [0, 1, 0, 1, 0, 1]
    angle = 5 / 10_000 ** (2 / 6)
    assert abs(float(out[0, 1, 2]) - math.sin(angle)) < 1e-12
    assert abs(float(out[0, 1, 3]) - math.cos(angle)) < 1e-12


def test_learned_positions() -> None:
    learned = LearnedPositions(7, 4)
    assert torch.equal(learned(torch.tensor([[6]]), torch.float64)[0, 0], learned.table.weight[6].double())


def test_norms_compute_in_the_streams_type() -> None:
    for kind in ("layernorm", "rmsnorm"):
        norm = make_norm(kind, 16, 1e-6).to(torch.bfloat16)
        x = torch.randn(2, 3, 16) + 100
        out = norm(x)
        assert out.dtype == torch.bfloat16
        exact = make_norm(kind, 16, 1e-6)(x)
        assert (out.float() - exact).abs().max() < 0.02


def test_rotary_turns_pairs_and_its_gradient_turns_back() -> None:
    positions = torch.tensor([[0, 3, 9]])
    waves = compute_waves(positions, 6, torch.float64)
    x = torch.randn(1, 3, 2, 6, dtype=torch.float64).transpose(1, 2).requires_grad_()  # as projections leave it
    turned = torch.view_as_complex(torch.stack(x.chunk(2, dim=-1), dim=-1)) * torch.polar(
        torch.ones(3, 3, dtype=torch.float64), positions[0, :, None] * 10_000.0 ** (-torch.arange(0, 6, 2).double() / 6)
    )
    assert (rotate(x, waves) - torch.cat((turned.real, turned.imag), dim=-1)).abs().max() < 1e-12
    assert torch.autograd.gradcheck(lambda x: rotate(x, waves), x)
    assert torch.autograd.gradgradcheck(lambda x: rotate(x, waves).sin(), x)
    tangent = torch.randn_like(x)
    _, pushed = torch.autograd.functional.jvp(lambda x: rotate(x, waves), x, tangent)
    assert (pushed - rotate(tangent, waves)).abs().max() < 1e-12
    with torch.autograd.forward_ad.dual_level():
        dual = rotate(torch.autograd.forward_ad.make_dual(x.detach(), tangent), waves)
        assert (torch.autograd.forward_ad.unpack_dual(dual).tangent - pushed).abs().max() < 1e-12
    out = rotate(x, waves)
    batched = torch.autograd.grad(out, x, torch.stack((tangent, 2 * tangent)), is_grads_batched=True)[0]
    assert (batched[1] - 2 * batched[0]).abs().max() < 1e-12
