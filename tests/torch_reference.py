"""PyTorch implementations of the networks, to compare with in tests and benchmarks.

Plain and in PyTorch's own layout and naming: the backbones have timm's `state_dict`, the IQA models
that of the original authors.
"""

import torch
import torch.nn.functional as F
from torch import nn

MOS_MEAN, MOS_STD = 1448.9595, 121.5351


def network_input(images) -> torch.Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) in [-1, 1], in the default dtype."""
    x = torch.as_tensor(images).permute(0, 3, 1, 2).to(torch.get_default_dtype())
    return (x / 255 - 0.5) / 0.5


# Inception-ResNet-v2


class BasicConv2d(nn.Module):
    def __init__(self, channels_in, channels_out, kernel_size=1, stride=1, padding=0):
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel_size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(channels_out, eps=1e-3)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


class Mixed5b(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch0 = BasicConv2d(192, 96)
        self.branch1 = nn.Sequential(BasicConv2d(192, 48), BasicConv2d(48, 64, 5, padding=2))
        self.branch2 = nn.Sequential(
            BasicConv2d(192, 64), BasicConv2d(64, 96, 3, padding=1), BasicConv2d(96, 96, 3, padding=1)
        )
        self.branch3 = nn.Sequential(
            nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False), BasicConv2d(192, 64)
        )

    def forward(self, x):
        return torch.cat([self.branch0(x), self.branch1(x), self.branch2(x), self.branch3(x)], 1)


class Block35(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch0 = BasicConv2d(320, 32)
        self.branch1 = nn.Sequential(BasicConv2d(320, 32), BasicConv2d(32, 32, 3, padding=1))
        self.branch2 = nn.Sequential(
            BasicConv2d(320, 32), BasicConv2d(32, 48, 3, padding=1), BasicConv2d(48, 64, 3, padding=1)
        )
        self.conv2d = nn.Conv2d(128, 320, 1)

    def forward(self, x):
        y = torch.cat([self.branch0(x), self.branch1(x), self.branch2(x)], 1)
        return F.relu(0.17 * self.conv2d(y) + x)


class Mixed6a(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch0 = BasicConv2d(320, 384, 3, stride=2)
        self.branch1 = nn.Sequential(
            BasicConv2d(320, 256), BasicConv2d(256, 256, 3, padding=1), BasicConv2d(256, 384, 3, stride=2)
        )

    def forward(self, x):
        return torch.cat([self.branch0(x), self.branch1(x), F.max_pool2d(x, 3, 2)], 1)


class ResidualBlock(nn.Module):
    """`block17` and `block8`."""

    def __init__(self, channels, widths, kernel_size, scale, final=False):
        super().__init__()
        a, b, c = widths
        k, p = kernel_size, kernel_size // 2
        self.branch0 = BasicConv2d(channels, 192)
        self.branch1 = nn.Sequential(
            BasicConv2d(channels, a),
            BasicConv2d(a, b, (1, k), padding=(0, p)),
            BasicConv2d(b, c, (k, 1), padding=(p, 0)),
        )
        self.conv2d = nn.Conv2d(192 + c, channels, 1)
        self.scale, self.final = scale, final

    def forward(self, x):
        y = self.scale * self.conv2d(torch.cat([self.branch0(x), self.branch1(x)], 1)) + x
        return y if self.final else F.relu(y)


class Mixed7a(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch0 = nn.Sequential(BasicConv2d(1088, 256), BasicConv2d(256, 384, 3, stride=2))
        self.branch1 = nn.Sequential(BasicConv2d(1088, 256), BasicConv2d(256, 288, 3, stride=2))
        self.branch2 = nn.Sequential(
            BasicConv2d(1088, 256), BasicConv2d(256, 288, 3, padding=1), BasicConv2d(288, 320, 3, stride=2)
        )

    def forward(self, x):
        return torch.cat([self.branch0(x), self.branch1(x), self.branch2(x), F.max_pool2d(x, 3, 2)], 1)


class InceptionResNetV2(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv2d_1a = BasicConv2d(3, 32, 3, stride=2)
        self.conv2d_2a = BasicConv2d(32, 32, 3)
        self.conv2d_2b = BasicConv2d(32, 64, 3, padding=1)
        self.maxpool_3a = nn.MaxPool2d(3, 2)
        self.conv2d_3b = BasicConv2d(64, 80)
        self.conv2d_4a = BasicConv2d(80, 192, 3)
        self.maxpool_5a = nn.MaxPool2d(3, 2)
        self.mixed_5b = Mixed5b()
        self.repeat = nn.Sequential(*[Block35() for _ in range(10)])
        self.mixed_6a = Mixed6a()
        self.repeat_1 = nn.Sequential(*[ResidualBlock(1088, (128, 160, 192), 7, 0.10) for _ in range(20)])
        self.mixed_7a = Mixed7a()
        self.repeat_2 = nn.Sequential(*[ResidualBlock(2080, (192, 224, 256), 3, 0.20) for _ in range(9)])
        self.block8 = ResidualBlock(2080, (192, 224, 256), 3, 1.0, final=True)
        self.conv2d_7b = BasicConv2d(2080, 1536)
        self.global_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classif = nn.Linear(1536, 1000)

    def forward(self, x):
        for stage in self.children():
            x = stage(x)
        return x


# EfficientNet-Lite0


class SameConv2d(nn.Conv2d):
    """Convolution without bias and with TensorFlow's same padding: the odd pixel goes after."""

    def __init__(self, channels_in, channels_out, kernel_size, stride=1, groups=1):
        super().__init__(channels_in, channels_out, kernel_size, stride, groups=groups, bias=False)

    def forward(self, x):
        padding = []
        for size, k, s in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((-(-size // s) - 1) * s + k - size, 0)
            padding += [total // 2, total - total // 2]
        return super().forward(F.pad(x, padding))


class DepthwiseSeparable(nn.Module):
    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.conv_dw = SameConv2d(channels_in, channels_in, 3, groups=channels_in)
        self.bn1 = nn.BatchNorm2d(channels_in, eps=1e-3)
        self.conv_pw = SameConv2d(channels_in, channels_out, 1)
        self.bn2 = nn.BatchNorm2d(channels_out, eps=1e-3)

    def forward(self, x):
        return self.bn2(self.conv_pw(F.relu6(self.bn1(self.conv_dw(x)))))


class InvertedResidual(nn.Module):
    def __init__(self, channels_in, channels_out, kernel_size, stride):
        super().__init__()
        width = 6 * channels_in
        self.conv_pw = SameConv2d(channels_in, width, 1)
        self.bn1 = nn.BatchNorm2d(width, eps=1e-3)
        self.conv_dw = SameConv2d(width, width, kernel_size, stride, groups=width)
        self.bn2 = nn.BatchNorm2d(width, eps=1e-3)
        self.conv_pwl = SameConv2d(width, channels_out, 1)
        self.bn3 = nn.BatchNorm2d(channels_out, eps=1e-3)
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, x):
        y = F.relu6(self.bn1(self.conv_pw(x)))
        y = F.relu6(self.bn2(self.conv_dw(y)))
        y = self.bn3(self.conv_pwl(y))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv_stem = SameConv2d(3, 32, 3, 2)
        self.bn1 = nn.BatchNorm2d(32, eps=1e-3)
        stages, channels = [nn.Sequential(DepthwiseSeparable(32, 16))], 16
        for blocks, width, kernel_size, stride in (
            (2, 24, 3, 2),
            (2, 40, 5, 2),
            (3, 80, 3, 2),
            (3, 112, 5, 1),
            (4, 192, 5, 2),
            (1, 320, 3, 1),
        ):
            first = InvertedResidual(channels, width, kernel_size, stride)
            rest = [InvertedResidual(width, width, kernel_size, 1) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(first, *rest))
            channels = width
        self.blocks = nn.Sequential(*stages)
        self.conv_head = SameConv2d(320, 1280, 1)
        self.bn2 = nn.BatchNorm2d(1280, eps=1e-3)
        self.classifier = nn.Linear(1280, 1000)

    def forward(self, x):
        x = self.blocks(F.relu6(self.bn1(self.conv_stem(x))))
        return self.classifier(F.relu6(self.bn2(self.conv_head(x))).mean((2, 3)))


# IQA Conformer and IQA Transformer


class MultiHeadAttention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.query_layer = nn.Linear(dim, dim)
        self.key_layer = nn.Linear(dim, dim)
        self.value_layer = nn.Linear(dim, dim)
        self.output_layer = nn.Linear(dim, dim)

    def forward(self, query, memory):
        def by_head(x):
            return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        q, k, v = self.query_layer(query), self.key_layer(memory), self.value_layer(memory)
        y = F.scaled_dot_product_attention(by_head(q), by_head(k), by_head(v))
        return self.output_layer(y.transpose(1, 2).flatten(2))


class AttentionModule(nn.Module):
    def __init__(self, dim, heads, dropout):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attention = MultiHeadAttention(dim, heads)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, memory=None):
        x = self.norm(x)
        return self.dropout(self.attention(x, x if memory is None else memory))


class Layers(nn.Module):
    """A sequence kept under the name `layers`."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x)


def feed_forward(dim, expansion, activation, inner_dropout, dropout):
    return Layers(
        nn.LayerNorm(dim),
        nn.Linear(dim, expansion * dim),
        activation,
        nn.Dropout(inner_dropout),
        nn.Linear(expansion * dim, dim),
        nn.Dropout(dropout),
    )


class ConvolutionModule(nn.Module):
    def __init__(self, dim, dropout):
        super().__init__()
        self.layers = nn.ModuleList(
            [
                nn.LayerNorm(dim),
                nn.Conv2d(dim, 2 * dim, 1),
                nn.GLU(dim=1),
                nn.Conv2d(dim, dim, 7, padding=3, groups=dim),
                nn.BatchNorm2d(dim),
                nn.SiLU(),
                nn.Conv2d(dim, dim, 1),
                nn.Dropout(dropout),
            ]
        )

    def forward(self, x):
        norm, *layers = self.layers
        x = norm(x).permute(0, 3, 1, 2)  # (B, D, h, w)
        for layer in layers:
            x = layer(x)
        return x.permute(0, 2, 3, 1)


class ConformerBlock(nn.Module):
    def __init__(self, dim, heads, dropout, cross):
        super().__init__()
        self.ff_module1 = feed_forward(dim, 4, nn.SiLU(), dropout, dropout)
        self.self_att_module = AttentionModule(dim, heads, dropout)
        if cross:
            self.cross_attention_module = AttentionModule(dim, heads, dropout)
        self.conv_module = ConvolutionModule(dim, dropout)
        self.ff_module2 = feed_forward(dim, 4, nn.SiLU(), dropout, dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x, memory=None):
        shape = x.shape  # (B, h, w, D)
        x = x.flatten(1, 2)
        x = x + 0.5 * self.ff_module1(x)
        x = x + self.self_att_module(x)
        if memory is not None:
            x = x + self.cross_attention_module(x, memory.flatten(1, 2))
        x = x + self.conv_module(x.view(shape)).flatten(1, 2)
        x = x + 0.5 * self.ff_module2(x)
        return self.norm(x).view(shape)


class TransformerBlock(nn.Module):
    def __init__(self, dim, heads, dropout, cross):
        super().__init__()
        self.self_att_module = AttentionModule(dim, heads, dropout)
        feed = feed_forward(dim, 8, nn.ReLU(), 0.0, dropout)
        if cross:
            self.cross_attention_module = AttentionModule(dim, heads, dropout)
            self.feed_forward_module = feed
        else:
            self.ff_module = feed

    def forward(self, x, memory=None):
        x = x + self.self_att_module(x)
        if memory is None:
            return x + self.ff_module(x)
        x = x + self.cross_attention_module(x, memory)
        return x + self.feed_forward_module(x)


class Stack(nn.Module):
    """One block under the name `blocks.0` and, for the Transformer, a LayerNorm after it."""

    def __init__(self, block, layernorm=None):
        super().__init__()
        self.blocks = nn.ModuleList([block])
        self.layernorm = layernorm

    def forward(self, x, memory=None):
        x = self.blocks[0](x, memory)
        return x if self.layernorm is None else self.layernorm(x)


class FullReferenceModel(nn.Module):
    """Frozen Inception-ResNet-v2 up to the tenth `block35`, six taps, one shared projection."""

    def __init__(self, dim):
        super().__init__()
        self.mixed5b = nn.Sequential(
            BasicConv2d(3, 32, 3, stride=2),
            BasicConv2d(32, 32, 3),
            BasicConv2d(32, 64, 3, padding=1),
            nn.MaxPool2d(3, 2),
            BasicConv2d(64, 80),
            BasicConv2d(80, 192, 3),
            nn.MaxPool2d(3, 2),
            Mixed5b(),
        )
        for number in (2, 4, 6, 8, 10):
            self.add_module(f"block35_{number}", nn.Sequential(Block35(), Block35()))
        self.backbone_names = ("mixed5b", *(f"block35_{n}" for n in (2, 4, 6, 8, 10)))
        for part in self.backbone():
            part.requires_grad_(False)
        self.conv_proj = nn.Conv2d(6 * 320, dim, 1)

    def backbone(self):
        return [getattr(self, name) for name in self.backbone_names]

    def train(self, mode=True):
        super().train(mode)
        for part in self.backbone():
            part.eval()
        return self

    def features(self, x):
        taps = []
        for part in self.backbone():
            x = part(x)
            taps.append(x)
        return torch.cat(taps, 1)

    def forward(self, reference, distorted):
        """Normalised MOS (B, 1) of two `network_input`s."""
        f_ref, f_dis = self.features(reference), self.features(distorted)
        return self.compare(self.conv_proj(f_ref), self.conv_proj(f_ref - f_dis))


class MeanOverPositions(nn.Module):
    def forward(self, x):
        return x.mean((1, 2))  # (B, h, w, D) -> (B, D)


class IQAConformer(FullReferenceModel):
    def __init__(self, dim=128, heads=4, dropout=0.1):
        super().__init__(dim)
        self.emb_p = nn.Embedding(441, dim)
        self.dropout = nn.Dropout(dropout)
        self.encoder = Stack(ConformerBlock(dim, heads, dropout, cross=False))
        self.decoder = Stack(ConformerBlock(dim, heads, dropout, cross=True))
        self.head = nn.Sequential(MeanOverPositions(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 1))

    def compare(self, reference, difference):
        position = self.emb_p.weight.view(21, 21, -1)
        reference, difference = (x.permute(0, 2, 3, 1) + position for x in (reference, difference))
        encoded = self.encoder(self.dropout(difference))
        decoded = self.decoder(self.dropout(reference), encoded)
        return self.head(decoded)


class IQATransformer(FullReferenceModel):
    def __init__(self, dim=128, heads=4, dropout=0.1):
        super().__init__(dim)
        self.emb_q = nn.Embedding(2, dim)
        self.emb_p = nn.Embedding(442, dim)
        self.dropout = nn.Dropout(dropout)
        self.encoder = Stack(TransformerBlock(dim, heads, dropout, cross=False), nn.LayerNorm(dim))
        self.decoder = Stack(TransformerBlock(dim, heads, dropout, cross=True), nn.LayerNorm(dim))
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 1))

    def compare(self, reference, difference):
        def tokens(x, quality_token):
            x = x.flatten(2).transpose(1, 2)  # (B, h * w, D)
            first = quality_token.expand(len(x), 1, -1)
            return self.dropout(torch.cat([first, x], 1) + self.emb_p.weight)

        encoded = self.encoder(tokens(difference, self.emb_q.weight[1]))
        decoded = self.decoder(tokens(reference, self.emb_q.weight[0]), encoded)
        return self.head(decoded[:, 0])


# Training and scoring


def train_step(model, optimizer, reference, distorted, targets) -> torch.Tensor:
    """One step on the mean squared error of normalised MOS (B, 1); gives the loss."""
    optimizer.zero_grad()
    loss = F.mse_loss(model(reference, distorted), targets)
    loss.backward()
    optimizer.step()
    return loss.detach()


def ten_crop(image: torch.Tensor, size: int = 192) -> torch.Tensor:
    """(3, H, W) -> (10, 3, size, size): four corners, centre, and the same of the mirrored image."""
    top, left = (image.shape[1] - size) // 2, (image.shape[2] - size) // 2
    crops = []
    for x in (image, image.flip(2)):
        crops += [x[:, :size, :size], x[:, :size, -size:], x[:, -size:, :size], x[:, -size:, -size:]]
        crops.append(x[:, top : top + size, left : left + size])
    return torch.stack(crops)


def ten_crop_predictions(model, reference: torch.Tensor, distorted: torch.Tensor) -> torch.Tensor:
    """Normalised MOS (10,) of the crops of one pair, each (3, H, W)."""
    return model(ten_crop(reference), ten_crop(distorted))[:, 0]


def score(model, reference: torch.Tensor, distorted: torch.Tensor) -> torch.Tensor:
    """MOS of one pair: the mean over its ten crops."""
    return ten_crop_predictions(model, reference, distorted).mean() * MOS_STD + MOS_MEAN
