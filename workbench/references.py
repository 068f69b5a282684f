"""The papers and programs behind the workbench, as `workbench.cite` prints them."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

NIPS, ICLR, ICML = (
    "Advances in Neural Information Processing Systems",
    "International Conference on Learning Representations",
    "International Conference on Machine Learning",
)
CVPR = "IEEE/CVF Conference on Computer Vision and Pattern Recognition"
JMLR = "Journal of Machine Learning Research"


class Reference(NamedTuple):
    """One entry: authors separated by "; ", "and others" for a cut list; `venue` empty for a preprint; `more` other fields."""

    title: str
    authors: str
    year: int
    eprint: str = ""
    venue: str = ""
    kind: str = "inproceedings"
    more: tuple[tuple[str, str], ...] = ()


def _software(url: str, **more: str) -> dict[str, Any]:
    return {"kind": "misc", "more": (("howpublished", rf"\url{{{url}}}"), *more.items())}


REFERENCES: dict[str, Reference] = {
    "aiello2024fast": Reference(
        "Fast Inference in Denoising Diffusion Models via MMD Finetuning",
        "Aiello, Emanuele; Valsesia, Diego; Magli, Enrico", 2024, "2301.07969"),
    "binkowski2018demystifying": Reference(
        "Demystifying MMD GANs", "Bińkowski, Mikołaj; Sutherland, Danica J.; Arbel, Michael; Gretton, Arthur", 2018,
        "1801.01401", ICLR),
    "bonneel2015sliced": Reference(
        "Sliced and Radon Wasserstein Barycenters of Measures",
        "Bonneel, Nicolas; Rabin, Julien; Peyré, Gabriel; Pfister, Hanspeter", 2015,
        venue="Journal of Mathematical Imaging and Vision", kind="article",
        more=(("volume", "51"), ("number", "1"), ("pages", "22--45"), ("doi", "10.1007/s10851-014-0506-3"))),
    "chen2024pixart": Reference(
        "PixArt-α: Fast Training of Diffusion Transformer for Photorealistic Text-to-Image Synthesis",
        "Chen, Junsong; Yu, Jincheng; Ge, Chongjian; Yao, Lewei; Xie, Enze; Wu, Yue; Wang, Zhongdao; Kwok, James; Luo, Ping; "
        "Lu, Huchuan; Li, Zhenguo", 2024, "2310.00426", ICLR),
    "chen2025sanasprint": Reference(
        "SANA-Sprint: One-Step Diffusion with Continuous-Time Consistency Distillation",
        "Chen, Junsong; Xue, Shuchen; Zhao, Yuyang; Yu, Jincheng; Paul, Sayak; others", 2025, "2503.09641"),
    "detlefsen2022torchmetrics": Reference(
        "TorchMetrics - Measuring Reproducibility in PyTorch",
        "Detlefsen, Nicki Skafte; Borovec, Jiri; Schock, Justus; Jha, Ananya Harsh; Koker, Teddy; Di Liello, Luca; "
        "Stancl, Daniel; Quan, Changsheng; Grechkin, Maxim; Falcon, William", 2022,
        venue="Journal of Open Source Software", kind="article",
        more=(("volume", "7"), ("number", "70"), ("pages", "4101"), ("doi", "10.21105/joss.04101"))),
    "esser2024scaling": Reference(
        "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis",
        "Esser, Patrick; Kulal, Sumith; Blattmann, Andreas; Entezari, Rahim; Müller, Jonas; Saini, Harry; Levi, Yam; "
        "Lorenz, Dominik; Sauer, Axel; Boesel, Frederic; Podell, Dustin; Dockhorn, Tim; English, Zion; Lacey, Kyle; "
        "Goodwin, Alex; Marek, Yannik; Rombach, Robin", 2024, "2403.03206", ICML),
    "flamary2021pot": Reference(
        "POT: Python Optimal Transport",
        "Flamary, Rémi; Courty, Nicolas; Gramfort, Alexandre; Alaya, Mokhtar Z.; Boisbunon, Aurélie; Chambon, Stanislas; "
        "Chapel, Laetitia; Corenflos, Adrien; Fatras, Kilian; Fournier, Nemo; Gautheron, Léo; Gayraud, Nathalie T. H.; "
        "Janati, Hicham; Rakotomamonjy, Alain; Redko, Ievgen; Rolet, Antoine; Schutz, Antony; Seguy, Vivien; "
        "Sutherland, Danica J.; Tavenard, Romain; Tong, Alexander; Vayer, Titouan", 2021,
        venue=JMLR, kind="article", more=(("volume", "22"), ("number", "78"), ("pages", "1--8"))),
    "geng2025consistency": Reference(
        "Consistency Models Made Easy",
        "Geng, Zhengyang; Pokle, Ashwini; Luo, William; Lin, Justin; Kolter, J. Zico", 2025, "2406.14548", ICLR),
    "geng2025mean": Reference(
        "Mean Flows for One-step Generative Modeling",
        "Geng, Zhengyang; Deng, Mingyang; Bai, Xingjian; Kolter, J. Zico; He, Kaiming", 2025, "2505.13447", NIPS),
    "gretton2012kernel": Reference(
        "A Kernel Two-Sample Test",
        "Gretton, Arthur; Borgwardt, Karsten M.; Rasch, Malte J.; Schölkopf, Bernhard; Smola, Alexander", 2012,
        venue=JMLR, kind="article", more=(("volume", "13"), ("pages", "723--773"))),
    "gu2023boot": Reference(
        "BOOT: Data-free Distillation of Denoising Diffusion Models with Bootstrapping",
        "Gu, Jiatao; Zhai, Shuangfei; Zhang, Yizhe; Liu, Lingjie; Susskind, Josh", 2023, "2306.05544"),
    "guo2017calibration": Reference(
        "On Calibration of Modern Neural Networks",
        "Guo, Chuan; Pleiss, Geoff; Sun, Yu; Weinberger, Kilian Q.", 2017, "1706.04599", ICML),
    "guo2025splitmeanflow": Reference(
        "SplitMeanFlow: Interval Splitting Consistency in Few-Step Generative Modeling",
        "Guo, Yi; others", 2025, "2507.16884"),
    "heusel2017gans": Reference(
        "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium",
        "Heusel, Martin; Ramsauer, Hubert; Unterthiner, Thomas; Nessler, Bernhard; Hochreiter, Sepp", 2017, "1706.08500", NIPS),
    "ho2020denoising": Reference(
        "Denoising Diffusion Probabilistic Models", "Ho, Jonathan; Jain, Ajay; Abbeel, Pieter", 2020, "2006.11239", NIPS),
    "ho2022classifier": Reference("Classifier-Free Diffusion Guidance", "Ho, Jonathan; Salimans, Tim", 2022, "2207.12598"),
    "karras2022elucidating": Reference(
        "Elucidating the Design Space of Diffusion-Based Generative Models",
        "Karras, Tero; Aittala, Miika; Aila, Timo; Laine, Samuli", 2022, "2206.00364", NIPS),
    "kim2024consistency": Reference(
        "Consistency Trajectory Models: Learning Probability Flow ODE Trajectory of Diffusion",
        "Kim, Dongjun; Lai, Chieh-Hsin; Liao, Wei-Hsiang; Murata, Naoki; Takida, Yuhta; Uesaka, Toshimitsu; He, Yutong; "
        "Mitsufuji, Yuki; Ermon, Stefano", 2024, "2310.02279", ICLR),
    "kynkaanniemi2019improved": Reference(
        "Improved Precision and Recall Metric for Assessing Generative Models",
        "Kynkäänniemi, Tuomas; Karras, Tero; Laine, Samuli; Lehtinen, Jaakko; Aila, Timo", 2019, "1904.06991", NIPS),
    "kynkaanniemi2024applying": Reference(
        "Applying Guidance in a Limited Interval Improves Sample and Distribution Quality in Diffusion Models",
        "Kynkäänniemi, Tuomas; Aittala, Miika; Karras, Tero; Laine, Samuli; Aila, Timo; Lehtinen, Jaakko", 2024,
        "2404.07724", NIPS),
    "lee2024improving": Reference(
        "Improving the Training of Rectified Flows",
        "Lee, Sangyun; Lin, Zinan; Fanti, Giulia", 2024, "2405.20320", NIPS),
    "lin2024common": Reference(
        "Common Diffusion Noise Schedules and Sample Steps are Flawed",
        "Lin, Shanchuan; Liu, Bingchen; Li, Jiashi; Yang, Xiao", 2024, "2305.08891",
        "IEEE/CVF Winter Conference on Applications of Computer Vision"),
    "lipman2023flow": Reference(
        "Flow Matching for Generative Modeling",
        "Lipman, Yaron; Chen, Ricky T. Q.; Ben-Hamu, Heli; Nickel, Maximilian; Le, Matt", 2023, "2210.02747", ICLR),
    "liu2023flow": Reference(
        "Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow",
        "Liu, Xingchao; Gong, Chengyue; Liu, Qiang", 2023, "2209.03003", ICLR),
    "liu2024instaflow": Reference(
        "InstaFlow: One Step is Enough for High-Quality Diffusion-Based Text-to-Image Generation",
        "Liu, Xingchao; Zhang, Xiwen; Ma, Jianzhu; Peng, Jian; Liu, Qiang", 2024, "2309.06380", ICLR),
    "liu2025scott": Reference(
        "SCott: Accelerating Diffusion Models with Stochastic Consistency Distillation",
        "Liu, Hongjian; Xie, Qingsong; others", 2025, "2403.01505"),
    "lu2022dpm": Reference(
        "DPM-Solver: A Fast ODE Solver for Diffusion Probabilistic Model Sampling in Around 10 Steps",
        "Lu, Cheng; Zhou, Yuhao; Bao, Fan; Chen, Jianfei; Li, Chongxuan; Zhu, Jun", 2022, "2206.00927", NIPS),
    "lu2022dpmpp": Reference(
        "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models",
        "Lu, Cheng; Zhou, Yuhao; Bao, Fan; Chen, Jianfei; Li, Chongxuan; Zhu, Jun", 2022, "2211.01095"),
    "lu2025simplifying": Reference(
        "Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models", "Lu, Cheng; Song, Yang", 2025,
        "2410.11081", ICLR),
    "luhman2021knowledge": Reference(
        "Knowledge Distillation in Iterative Generative Models for Improved Sampling Speed",
        "Luhman, Eric; Luhman, Troy", 2021, "2101.02388"),
    "naeem2020reliable": Reference(
        "Reliable Fidelity and Diversity Metrics for Generative Models",
        "Naeem, Muhammad Ferjad; Oh, Seong Joon; Uh, Youngjung; Choi, Yunjey; Yoo, Jaejun", 2020, "2002.09797", ICML),
    "nichol2021improved": Reference(
        "Improved Denoising Diffusion Probabilistic Models", "Nichol, Alex; Dhariwal, Prafulla", 2021, "2102.09672", ICML),
    "paszke2019pytorch": Reference(
        "PyTorch: An Imperative Style, High-Performance Deep Learning Library",
        "Paszke, Adam; Gross, Sam; Massa, Francisco; Lerer, Adam; Bradbury, James; Chanan, Gregory; Killeen, Trevor; "
        "Lin, Zeming; Gimelshein, Natalia; Antiga, Luca; Desmaison, Alban; Köpf, Andreas; Yang, Edward; DeVito, Zachary; "
        "Raison, Martin; Tejani, Alykhan; Chilamkurthy, Sasank; Steiner, Benoit; Fang, Lu; Bai, Junjie; Chintala, Soumith",
        2019, "1912.01703", NIPS),
    "peebles2023scalable": Reference(
        "Scalable Diffusion Models with Transformers", "Peebles, William; Xie, Saining", 2023, "2212.09748",
        "IEEE/CVF International Conference on Computer Vision"),
    "ren2024hypersd": Reference(
        "Hyper-SD: Trajectory Segmented Consistency Model for Efficient Image Synthesis",
        "Ren, Yuxi; Xia, Xin; Lu, Yanzuo; Zhang, Jiacheng; Wu, Jie; Xie, Pan; Wang, Xing; Xiao, Xuefeng", 2024, "2404.13686", NIPS),
    "sabour2025align": Reference(
        "Align Your Flow: Scaling Continuous-Time Flow Map Distillation",
        "Sabour, Amirmojtaba; Fidler, Sanja; Kreis, Karsten", 2025, "2506.14603", NIPS),
    "sheng2025mp1": Reference(
        "MP1: MeanFlow Tames Policy Learning in 1-Step for Robotic Manipulation",
        "Sheng, Juyi; Wang, Ziyi; Li, Peiming; Liu, Mengyuan", 2025, "2507.10543"),
    "karras2024guiding": Reference(
        "Guiding a Diffusion Model with a Bad Version of Itself",
        "Karras, Tero; Aittala, Miika; Kynkäänniemi, Tuomas; Lehtinen, Jaakko; Aila, Timo; Laine, Samuli", 2024, "2406.02507", NIPS),
    "sauer2024fast": Reference(
        "Fast High-Resolution Image Synthesis with Latent Adversarial Diffusion Distillation",
        "Sauer, Axel; Boesel, Frederic; Dockhorn, Tim; Blattmann, Andreas; Esser, Patrick; Rombach, Robin", 2024, "2403.12015"),
    "shing2025taid": Reference(
        "TAID: Temporally Adaptive Interpolated Distillation for Efficient Knowledge Transfer in Language Models",
        "Shing, Makoto; Misaki, Kou; Bao, Han; Yokoi, Sho; Akiba, Takuya", 2025, "2501.16937"),
    "tang2025imagefree": Reference(
        "Image-Free Timestep Distillation via Continuous-Time Consistency with Trajectory-Sampled Pairs",
        "Tang, Bao; Zhang, Shuai; Zhu, Yueting; Xiang, Jijun; Yang, Xin; Yu, Li; Liu, Wenyu; Wang, Xinggang", 2025, "2511.20410"),
    "tong2025flow": Reference(
        "Flow Map Distillation Without Data",
        "Tong, Shangyuan; Ma, Nanye; Xie, Saining; Jaakkola, Tommi", 2025, "2511.19428"),
    "vonplaten2022diffusers": Reference(
        "Diffusers: State-of-the-Art Diffusion Models",
        "von Platen, Patrick; Patil, Suraj; Lozhkov, Anton; Cuenca, Pedro; Lambert, Nathan; Rasul, Kashif; "
        "Davaadorj, Mishig; Nair, Dhruv; Paul, Sayak; Berman, William; Xu, Yiyi; Liu, Steven; Wolf, Thomas", 2022,
        **_software("https://github.com/huggingface/diffusers")),
    "saharia2022photorealistic": Reference(
        "Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding",
        "Saharia, Chitwan; Chan, William; Saxena, Saurabh; Li, Lala; Whang, Jay; Denton, Emily; and others", 2022,
        "2205.11487", NIPS),
    "salimans2022progressive": Reference(
        "Progressive Distillation for Fast Sampling of Diffusion Models", "Salimans, Tim; Ho, Jonathan", 2022,
        "2202.00512", ICLR),
    "song2021ddim": Reference(
        "Denoising Diffusion Implicit Models", "Song, Jiaming; Meng, Chenlin; Ermon, Stefano", 2021, "2010.02502", ICLR),
    "song2021score": Reference(
        "Score-Based Generative Modeling through Stochastic Differential Equations",
        "Song, Yang; Sohl-Dickstein, Jascha; Kingma, Diederik P.; Kumar, Abhishek; Ermon, Stefano; Poole, Ben", 2021,
        "2011.13456", ICLR),
    "song2023consistency": Reference(
        "Consistency Models", "Song, Yang; Dhariwal, Prafulla; Chen, Mark; Sutskever, Ilya", 2023, "2303.01469", ICML),
    "song2024improved": Reference(
        "Improved Techniques for Training Consistency Models", "Song, Yang; Dhariwal, Prafulla", 2024, "2310.14189", ICLR),
    "szekely2013energy": Reference(
        "Energy Statistics: A Class of Statistics Based on Distances", "Székely, Gábor J.; Rizzo, Maria L.", 2013,
        venue="Journal of Statistical Planning and Inference", kind="article",
        more=(("volume", "143"), ("number", "8"), ("pages", "1249--1272"), ("doi", "10.1016/j.jspi.2013.03.018"))),
    "wang2024phased": Reference(
        "Phased Consistency Models",
        "Wang, Fu-Yun; Huang, Zhaoyang; Bergman, Alexander William; others", 2024, "2405.18407", NIPS),
    "workbench": Reference(
        "workbench: a diffusion-distillation workbench", "{The workbench authors}", 2026,
        kind="misc", more=(("note", f"Python package, version {sys.modules['workbench'].__version__}"),)),
    "cheng2025twinflow": Reference(
        "TwinFlow: Realizing One-step Generation on Large Models with Self-adversarial Flows",
        "Cheng, Zhenglin; Sun, Peng; Li, Jianguo; Lin, Tao", 2025, "2512.05150"),
    "zhou2025fewstepflow": Reference(
        "Few-step Flow for 3D Generation via Marginal-Data Transport Distillation", "Zhou, Zanwei; others", 2025, "2509.04406"),
    "chen2025nitrofusion": Reference(
        "NitroFusion: High-Fidelity Single-Step Diffusion through Dynamic Adversarial Training",
        "Chen, Dar-Yen; Bandyopadhyay, Hmrishav; Zou, Kai; Song, Yi-Zhe", 2025, "2412.02030", CVPR),
    "zheng2025large": Reference(
        "Large Scale Diffusion Distillation via Score-Regularized Continuous-Time Consistency",
        "Zheng, Kaiwen; others", 2025, "2510.08431"),
    "song2024multistudent": Reference(
        "Multi-student Diffusion Distillation for Better One-step Generators",
        "Song, Yanke; Lorraine, Jonathan; Nie, Weili; Kreis, Karsten; Lucas, James", 2024, "2410.23274"),
    "yin2024improved": Reference(
        "Improved Distribution Matching Distillation for Fast Image Synthesis",
        "Yin, Tianwei; Gharbi, Michaël; Park, Taesung; Zhang, Richard; Shechtman, Eli; Durand, Frédo; Freeman, William T.",
        2024, "2405.14867", NIPS),
    "yin2024onestep": Reference(
        "One-step Diffusion with Distribution Matching Distillation",
        "Yin, Tianwei; Gharbi, Michaël; Zhang, Richard; Shechtman, Eli; Durand, Frédo; Freeman, William T.; Park, Taesung",
        2024, "2311.18828", CVPR),
    "luo2023diffinstruct": Reference(
        "Diff-Instruct: A Universal Approach for Transferring Knowledge From Pre-trained Diffusion Models",
        "Luo, Weijian; Hu, Tianyang; Zhang, Shifeng; Sun, Jiacheng; Li, Zhenguo; Zhang, Zhihua", 2023, "2305.18455", NIPS),
    "wang2023prolificdreamer": Reference(
        "ProlificDreamer: High-Fidelity and Diverse Text-to-3D Generation with Variational Score Distillation",
        "Wang, Zhengyi; Lu, Cheng; Wang, Yikai; Bao, Fan; Li, Chongxuan; Su, Hang; Zhu, Jun", 2023, "2305.16213", NIPS),
    "poole2023dreamfusion": Reference(
        "DreamFusion: Text-to-3D using 2D Diffusion", "Poole, Ben; Jain, Ajay; Barron, Jonathan T.; Mildenhall, Ben", 2023,
        "2209.14988", ICLR),
    "nguyen2024swiftbrush": Reference(
        "SwiftBrush: One-Step Text-to-Image Diffusion Model with Variational Score Distillation",
        "Nguyen, Thuan Hoang; Tran, Anh", 2024, "2312.05239", CVPR),
    "chen2025flashdmd": Reference(
        "Flash-DMD: Towards High-Fidelity Few-Step Image Generation with Efficient Distillation and Joint Reinforcement Learning",
        "Chen, Guanjie and others", 2025, "2511.20549"),
    "fan2025phased": Reference(
        "Phased DMD: Few-step Distribution Matching Distillation via Score Matching within Subintervals",
        "Fan, Xiangyu and others", 2025, "2510.27684"),
    "liu2025decoupled": Reference(
        "Decoupled DMD: CFG Augmentation as the Spear, Distribution Matching as the Shield",
        "Liu, Dongyang; Gao, Peng and others", 2025, "2511.22677"),
    "luo2025learning": Reference(
        "Learning Few-Step Diffusion Models by Trajectory Distribution Matching",
        "Luo, Yihong; Hu, Tianyang; Sun, Jiacheng; Cai, Yujun; Tang, Jing", 2025, "2503.06674"),
    "xu2025onestep": Reference(
        "One-step Diffusion Models with f-Divergence Distribution Matching", "Xu, Yilun; Nie, Weili; Vahdat, Arash", 2025,
        "2502.15681"),
    "wang2025uniinstruct": Reference(
        "Uni-Instruct: One-step Diffusion Model through Unified Diffusion Divergence Instruction",
        "Wang, Yifei; Bai, Weimin; Zhang, Colin; Zhang, Debing; Luo, Weijian; Sun, He", 2025, "2505.20755"),
    "luo2024onestep": Reference(
        "One-Step Diffusion Distillation through Score Implicit Matching",
        "Luo, Weijian; Huang, Zemin; Geng, Zhengyang; Kolter, J. Zico; Qi, Guo-Jun", 2024, "2410.16794", NIPS),
    "zhou2024score": Reference(
        "Score identity Distillation: Exponentially Fast Distillation of Pretrained Diffusion Models for One-Step Generation",
        "Zhou, Mingyuan; Zheng, Huangjie; Wang, Zhendong; Yin, Mingzhang; Huang, Hai", 2024, "2404.04057", ICML),
    "zhou2025fewstep": Reference(
        "Few-Step Diffusion via Score identity Distillation", "Zhou, Mingyuan; Gu, Yi; Wang, Zhendong", 2025, "2505.12674"),
    "zhou2025flow": Reference(
        "Score Distillation of Flow Matching Models", "Zhou, Mingyuan; Gu, Yi and others", 2025, "2509.25127"),
    "luo2024diffinstruct": Reference(
        "Diff-Instruct*: Towards Human-Preferred One-step Text-to-image Generative Models",
        "Luo, Weijian; Zhang, Colin; Zhang, Debing; Geng, Zhengyang", 2024, "2410.20898"),
    "ma2024scaledreamer": Reference(
        "ScaleDreamer: Scalable Text-to-3D Synthesis with Asynchronous Score Distillation",
        "Ma, Zhiyuan; Wei, Yuxiang; Zhang, Yabin; Zhu, Xiangyu; Lei, Zhen; Zhang, Lei", 2024, "2407.02040",
        "European Conference on Computer Vision"),
    "zhang2024distribution": Reference(
        "Distribution Backtracking Builds A Faster Convergence Trajectory for Diffusion Distillation",
        "Zhang, Shengyuan and others", 2024, "2408.15991"),
    "chen2024trajectory": Reference(
        "On the Trajectory Regularity of ODE-based Diffusion Sampling",
        "Chen, Defang; Zhou, Zhenyu; Wang, Can; Shen, Chunhua; Lyu, Siwei", 2024, "2405.11326", ICML),
    "chen2025normalized": Reference(
        "Normalized Attention Guidance: Universal Negative Guidance for Diffusion Models",
        "Chen, Dar-Yen; Bandyopadhyay, Hmrishav; Zou, Kai; Song, Yi-Zhe", 2025, "2505.21179"),
    "friedman2023vendi": Reference(
        "The Vendi Score: A Diversity Evaluation Metric for Machine Learning", "Friedman, Dan; Dieng, Adji Bousso", 2023,
        "2210.02410", "Transactions on Machine Learning Research", kind="article"),
    "hoogeboom2023simple": Reference(
        "simple diffusion: End-to-end diffusion for high resolution images",
        "Hoogeboom, Emiel; Heek, Jonathan; Salimans, Tim", 2023, "2301.11093", ICML),
    "meng2022sdedit": Reference(
        "SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations",
        "Meng, Chenlin; He, Yutong; Song, Yang; Song, Jiaming; Wu, Jiajun; Zhu, Jun-Yan; Ermon, Stefano", 2022, "2108.01073", ICLR),
    "chen2025regione": Reference(
        "RegionE: Adaptive Region-Aware Generation for Efficient Image Editing", "Chen, Pengtao; and others", 2025, "2510.25590"),
    "frankel2025s4s": Reference(
        "S4S: Solving for a Diffusion Model Solver",
        "Frankel, Eric; Chen, Sitan; Li, Jerry; Koh, Pang Wei; Ratliff, Lillian J.; Oh, Sewoong", 2025, "2502.17423"),
    "fu2025learnable": Reference(
        "Learnable Sampler Distillation for Discrete Diffusion Models", "Fu, Feiyang; Guo, Tongxian; Liu, Zhaoqiang", 2025,
        "2509.19962", NIPS),
    "gandikota2025distilling": Reference(
        "Distilling Diversity and Control in Diffusion Models", "Gandikota, Rohit; Bau, David", 2025, "2503.10637"),
    "hu2024one": Reference(
        "One More Step: A Versatile Plug-and-Play Module for Rectifying Diffusion Schedule Flaws and Enhancing Low-Frequency Controls",
        "Hu, Minghui; Zheng, Jianbin; Zheng, Chuanxia; Wang, Chaoyue; Tao, Dacheng; Cham, Tat-Jen", 2024, "2311.15744", CVPR),
    "lee2024beta": Reference(
        "Beta Sampling is All You Need: Efficient Image Generation Strategy for Diffusion Models using Stepwise Spectral Analysis",
        "Lee, Haeil; Lee, Hansang; Gye, Seoyeon; Kim, Junmo", 2024, "2407.12173"),
    "li2024distrifusion": Reference(
        "DistriFusion: Distributed Parallel Inference for High-Resolution Diffusion Models",
        "Li, Muyang; Cai, Tianle; Cao, Jiaxin; Zhang, Qinsheng; Cai, Han; Bai, Junjie; Jia, Yangqing; Liu, Ming-Yu; Li, Kai; "
        "Han, Song", 2024, "2402.19481", CVPR),
    "liu2022diffsinger": Reference(
        "DiffSinger: Singing Voice Synthesis via Shallow Diffusion Mechanism",
        "Liu, Jinglin; Li, Chengxi; Ren, Yi; Chen, Feiyang; Zhao, Zhou", 2022, "2105.02446",
        "AAAI Conference on Artificial Intelligence"),
    "liu2022pseudo": Reference(
        "Pseudo Numerical Methods for Diffusion Models on Manifolds", "Liu, Luping; Ren, Yi; Lin, Zhijie; Zhao, Zhou", 2022,
        "2202.09778", ICLR),
    "liu2025accelerate": Reference(
        "Accelerate TarFlow Sampling with GS-Jacobi Iteration", "Liu, Ben; Qin, Zhen", 2025, "2505.12849"),
    "luo2023latent": Reference(
        "Latent Consistency Models: Synthesizing High-Resolution Images with Few-Step Inference",
        "Luo, Simian; Tan, Yiqin; Huang, Longbo; Li, Jian; Zhao, Hang", 2023, "2310.04378"),
    "nguyen2025snoopi": Reference(
        "SNOOPI: Supercharged One-step Diffusion Distillation with Proper Guidance",
        "Nguyen, Viet; Nguyen, Anh; Dao, Trung; Nguyen, Khoi; Pham, Cuong; Tran, Toan; Tran, Anh", 2025, "2412.02687"),
    "novack2024ditto2": Reference(
        "DITTO-2: Distilled Diffusion Inference-Time T-Optimization for Music Generation",
        "Novack, Zachary; McAuley, Julian; Berg-Kirkpatrick, Taylor; Bryan, Nicholas J.", 2024, "2405.20289"),
    "paxton2022climate": Reference(
        "Climate Modeling in Low Precision: Effects of Both Deterministic and Stochastic Rounding",
        "Paxton, E. Adam; Chantry, Matthew; Klöwer, Milan; Saffin, Leo; Palmer, Tim", 2022, "2104.15076", "Journal of Climate",
        kind="article", more=(("volume", "35"), ("number", "4"), ("pages", "1215--1229"))),
    "sabour2024align": Reference(
        "Align Your Steps: Optimizing Sampling Schedules in Diffusion Models",
        "Sabour, Amirmojtaba; Fidler, Sanja; Kreis, Karsten", 2024, "2404.14507", ICML),
    "saz2025reinforcement": Reference(
        "Reinforcement learning for adaptive time-stepping in the chaotic gravitational three-body problem",
        "Saz Ulibarrena, Veronica; Portegies Zwart, Simon", 2025, "2502.12809"),
    "shih2023parallel": Reference(
        "Parallel Sampling of Diffusion Models",
        "Shih, Andy; Belkhale, Suneel; Ermon, Stefano; Sadigh, Dorsa; Anari, Nima", 2023, "2305.16317", NIPS),
    "sun2025ardiffusion": Reference(
        "AR-Diffusion: Asynchronous Video Generation with Auto-Regressive Diffusion", "Sun, Mingzhen; and others", 2025,
        "2503.07418", CVPR),
    "tian2025training": Reference(
        "Training-free Diffusion Acceleration with Bottleneck Sampling", "Tian, Ye; and others", 2025, "2503.18940"),
    "tong2025learning": Reference(
        "Learning to Discretize Denoising Diffusion ODEs",
        "Tong, Vinh; Hoang, Trung-Dung; Liu, Anji; Van den Broeck, Guy; Niepert, Mathias", 2025, "2405.15506", ICLR),
    "wizadwongsa2024diffusion": Reference(
        "Diffusion Sampling with Momentum for Mitigating Divergence Artifacts",
        "Wizadwongsa, Suttisak; Chinchuthakun, Worameth; Khungurn, Pramook; Raj, Amit; Suwajanakorn, Supasorn", 2024,
        "2307.11118", ICLR),
    "xu2023restart": Reference(
        "Restart Sampling for Improving Generative Processes",
        "Xu, Yilun; Deng, Mingyang; Cheng, Xiang; Tian, Yonglong; Liu, Ziming; Jaakkola, Tommi", 2023, "2306.14878", NIPS),
    "xu2025lowdiff": Reference(
        "LowDiff: Efficient Diffusion Sampling with Low-Resolution Condition",
        "Xu, Jiuyi; Jin, Qing; Chen, Meida; Feng, Andrew; Sui, Yang; Shi, Yangming", 2025, "2509.15342"),
    "yu2025dualfast": Reference(
        "DualFast: Dual-Speedup Framework for Fast Sampling of Diffusion Models",
        "Yu, Hu; Luo, Hao; Wang, Fan; Zhao, Feng", 2025, "2506.13058"),
    "yu2025ttsnap": Reference(
        "TTSnap: Test-Time Scaling of Diffusion Models via Noise-Aware Pruning",
        "Yu, Qingtao; Song, Changlin; Sun, Minghao; Yu, Zhengyang; Verma, Vinay Kumar; Roy, Soumya; Negi, Sumit; "
        "Li, Hongdong; Campbell, Dylan", 2025, "2511.22242"),
    "zhang2023fast": Reference(
        "Fast Sampling of Diffusion Models with Exponential Integrator", "Zhang, Qinsheng; Chen, Yongxin", 2023, "2204.13902", ICLR),
    "zhang2024partially": Reference(
        "Partially Conditioned Patch Parallelism for Accelerated Diffusion Model Inference",
        "Zhang, XiuYu; Luo, Zening; Lu, Michelle E.", 2024, "2412.02962"),
    "zhang2025accvideo": Reference(
        "AccVideo: Accelerating Video Diffusion Model with Synthetic Dataset", "Zhang, Haiyu; others", 2025, "2503.19462"),
    "zhao2023unipc": Reference(
        "UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion Models",
        "Zhao, Wenliang; Bai, Lujia; Rao, Yongming; Zhou, Jie; Lu, Jiwen", 2023, "2302.04867", NIPS),
    "meng2023distillation": Reference(
        "On Distillation of Guided Diffusion Models",
        "Meng, Chenlin; Rombach, Robin; Gao, Ruiqi; Kingma, Diederik P.; Ermon, Stefano; Ho, Jonathan; and others", 2023,
        "2210.03142", CVPR),
    "jensen2025efficient": Reference(
        "Efficient Distillation of Classifier-Free Guidance using Adapters", "Jensen, Cristian Perez; Sadat, Seyedmorteza", 2025,
        "2503.07274"),
    "zhang2023hipa": Reference(
        "HiPA: Enabling One-Step Text-to-Image Diffusion Models via High-Frequency-Promoting Adaptation",
        "Zhang, Yifan; Hooi, Bryan", 2023, "2311.18158"),
    "xiao2022tackling": Reference(
        "Tackling the Generative Learning Trilemma with Denoising Diffusion GANs",
        "Xiao, Zhisheng; Kreis, Karsten; Vahdat, Arash", 2022, "2112.07804", ICLR),
    "hu2022lora": Reference(
        "LoRA: Low-Rank Adaptation of Large Language Models",
        "Hu, Edward J.; Shen, Yelong; Wallis, Phillip; Allen-Zhu, Zeyuan; Li, Yuanzhi; Wang, Shean; and others", 2022,
        "2106.09685", ICLR),
    "zhu2024slimflow": Reference(
        "SlimFlow: Training Smaller One-Step Diffusion Models with Rectified Flow",
        "Zhu, Yuanzhi; Liu, Xingchao; Liu, Qiang", 2024, "2407.12718", "European Conference on Computer Vision"),
    "chen2025score": Reference(
        "Score Forgetting Distillation: A Swift, Data-Free Method for Machine Unlearning in Diffusion Models",
        "Chen, Tianqi; Zhang, Shujian; Zhou, Mingyuan", 2025, "2409.11219", ICLR),
    "he2024one": Reference(
        "One Step Diffusion-based Super-Resolution with Time-Aware Distillation", "He, Xiao; others", 2024, "2408.07476"),
    "luo2025noise": Reference(
        "Noise Consistency Training: A Native Approach for One-Step Generator in Learning Additional Controls",
        "Luo, Yihong; Xue, Shuchen; Hu, Tianyang; Tang, Jing", 2025, "2506.19741"),
    "miao2025tuning": Reference(
        "Tuning Timestep-Distilled Diffusion Model Using Pairwise Sample Optimization", "Miao, Zichen; others", 2025,
        "2410.03190", ICLR),
    "oertell2024rl": Reference(
        "RL for Consistency Models: Faster Reward Guided Text-to-Image Generation",
        "Oertell, Owen; Chang, Jonathan D.; Zhang, Yiyi; Brantley, Kianté; Sun, Wen", 2024, "2404.03673"),
    "wang2023zeroshot": Reference(
        "Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model", "Wang, Yinhuai; Yu, Jiwen; Zhang, Jian", 2023,
        "2212.00490", ICLR),
    "yang2025echodistill": Reference(
        "EchoDistill: Bidirectional Concept Distillation for One-Step Diffusion Personalization",
        "Yang, Yixiong; Wu, Tao; Li, Senmao; Yang, Shiqi; Wang, Yaxing; van de Weijer, Joost; Wang, Kai", 2025, "2510.20512"),
    "zhao2025diffusion": Reference(
        "Diffusion Distillation With Direct Preference Optimization For Efficient 3D LiDAR Scene Completion",
        "Zhao, An; others", 2025, "2504.11447"),
    "zou2025dm1": Reference(
        "DM1: MeanFlow with Dispersive Regularization for 1-Step Robotic Manipulation",
        "Zou, Guowei; others", 2025, "2510.07865"),
}  # fmt: skip
