"""How report.html looks: light or dark as the reader's screen, light on paper, two columns on a desk, sense without
colour.
"""

__all__ = ["STYLE"]

LIGHT = "--ink:#1a1a1a;--soft:#4d4d4d;--line:#cfcfcf;--paper:#fff;--wash:#f6f5f2;--worst:#a63a0a;--worst-wash:#fbe9e1;\
--first:#0b3c5d;--mid:#6b6b6b;color-scheme:light"
DARK = "--ink:#ececec;--soft:#b4b4b4;--line:#444;--paper:#16181b;--wash:#22262b;--worst:#ff9466;--worst-wash:#43241a;\
--first:#79b8ff;--mid:#a8a8a8;color-scheme:dark"
STYLE = (
    f"""
:root{{{LIGHT}}}
@media screen and (prefers-color-scheme:dark){{:root{{{DARK}}}}}
"""
    + """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:17px/1.5 system-ui,-apple-system,"Segoe UI","Noto Sans",
"DejaVu Sans",Arial,sans-serif;overflow-wrap:anywhere}
main{max-width:72rem;margin:0 auto;padding:1.25rem 1rem 3rem}
h1{font-size:1.15rem;font-weight:600;margin:0 0 .6rem;color:var(--soft)}
h2{font-size:1.4rem;line-height:1.25;margin:2.6rem 0 .8rem;padding-top:.8rem;border-top:3px solid var(--ink)}
h3{font-size:1.1rem;margin:2rem 0 .5rem}
p,ul{margin:0 0 .8rem;max-width:46rem}
p.conclusion{font-size:1.15rem;font-weight:500}
p.lead{font-size:1.3rem;line-height:1.4;font-weight:500;border-left:6px solid var(--worst);padding-left:.8rem}
p.second{font-size:1.1rem;border-left-width:3px}
details{margin:0 0 1rem}
summary{cursor:pointer;padding:.3rem 0;text-decoration:underline}
details ul{padding-left:1.2rem}
details li{margin-bottom:.35rem}
code{font-family:ui-monospace,"DejaVu Sans Mono",monospace;font-size:.9em;background:var(--wash);padding:0 .2em}
.warning{border:2px solid var(--ink);border-left-width:10px;padding:.6rem .8rem;background:var(--wash)}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,11.5rem),1fr));gap:.7rem;
margin:1rem 0 1.2rem;padding:0}
.facts>div{border:1px solid var(--line);border-radius:.4rem;padding:.6rem .8rem;background:var(--paper)}
.facts dt{font-size:.85rem;color:var(--soft)}
.facts dd{margin:0}
.facts .big{font-size:1.6rem;line-height:1.2;font-weight:700;unicode-bidi:isolate;display:block}
.facts .small{font-size:.92rem;color:var(--soft);display:block}
.facts .worst{border:3px solid var(--worst);background:var(--worst-wash)}
.facts .worst dt{color:var(--worst);font-weight:700;text-transform:uppercase;letter-spacing:.04em}
.facts .worst .small{color:var(--ink)}
.reading div{font:.85rem/1.5 ui-monospace,"DejaVu Sans Mono",monospace}
.made{display:grid;grid-template-columns:max-content 1fr;gap:.1rem .9rem;margin:0 0 1rem;font-size:.95rem}
.made dt{color:var(--soft)}
.made dd{margin:0}
.about{background:var(--wash);padding:.9rem 1rem;border-radius:.4rem;margin:1.2rem 0}
.about p{font-size:.97rem;max-width:60rem}
.about p:last-child{margin-bottom:0}
.pictures{columns:24rem 2;column-gap:2.5rem;margin:1rem 0}
figure{display:inline-block;width:100%;margin:0 0 1.8rem;max-width:32rem;break-inside:avoid}
figure h3{margin:0 0 .3rem}
svg.figure{display:block;width:100%;height:auto}
svg.figure *{stroke-linejoin:round;stroke-linecap:butt}
figcaption{font-size:.88rem;color:var(--soft);margin-top:.4rem}
.scroll{overflow-x:auto;margin:0 0 1rem;border:1px solid var(--line);border-radius:.4rem}
.scroll:focus-visible{outline:3px solid var(--first);outline-offset:2px}
table{border-collapse:collapse;font-size:.92rem;width:100%;font-variant-numeric:tabular-nums}
caption{text-align:left;font-weight:600;padding:.5rem .7rem;background:var(--wash)}
th,td{padding:.35rem .7rem;text-align:right;vertical-align:top;border-top:1px solid var(--line);overflow-wrap:normal}
td{white-space:nowrap}td.text{white-space:normal;min-width:8rem}
thead th{font-weight:600;border-bottom:2px solid var(--ink);vertical-align:bottom}
th[scope=row],thead th:first-child,td.text,th.text{text-align:left}
th[scope=row]{font-weight:500;min-width:8rem;max-width:24rem;overflow-wrap:break-word;unicode-bidi:isolate}
thead th{max-width:11rem;overflow-wrap:break-word}
tr.worst th,tr.worst td{font-weight:700;background:var(--worst-wash);border-top:2px solid var(--worst);
border-bottom:2px solid var(--worst)}
.range{color:var(--soft);font-weight:400;font-size:.88em;display:block}
footer{margin-top:2.5rem;font-size:.88rem;color:var(--soft)}
@media (max-width:30rem){body{font-size:16px}p.lead{font-size:1.15rem}th,td{padding:.3rem .5rem}
th[scope=row]{max-width:10rem}}
@media print{details::details-content{content-visibility:visible;display:block;block-size:auto;height:auto}
summary{text-decoration:none;font-weight:600}main{max-width:none}.scroll{overflow:visible;border:0}figure,.facts>div,tr{break-inside:avoid}}
"""
)
