"use strict";
(() => {
  document.documentElement.classList.add("scripted");

  // The slider: keys and screen readers move the range input, and a pointer moves it from anywhere in the image.
  const compare = document.getElementById("compare");
  const range = document.getElementById("split");
  const split = (percent) => {
    compare.style.setProperty("--split", `${percent}%`);
    range.setAttribute("aria-valuetext", `${range.value} % original`);
  };
  const moveTo = (event) => {
    const box = compare.getBoundingClientRect();
    const percent = Math.min(100, Math.max(0, ((event.clientX - box.left) / box.width) * 100));
    range.value = percent;
    split(percent);
  };
  range.addEventListener("input", () => split(range.value));
  compare.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    compare.setPointerCapture(event.pointerId);
    range.focus({ preventScroll: true });
    moveTo(event);
  });
  compare.addEventListener("pointermove", (event) => {
    if (compare.hasPointerCapture(event.pointerId)) moveTo(event);
  });
  // By default the browser would drag the image and take the focus from the range.
  compare.addEventListener("mousedown", (event) => event.preventDefault());
  split(range.value);

  // The clouds.
  const cloud = JSON.parse(document.getElementById("cloud").textContent);
  const before = document.getElementById("cloud-before");
  const after = document.getElementById("cloud-after");
  const selected = () => document.querySelector("input[name=k]:checked").value;

  const prepare = (canvas) => {
    const ratio = window.devicePixelRatio || 1;
    const { width, height } = canvas.getBoundingClientRect();
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    const margin = 18;
    const disc = (points, i, radius) => {
      context.beginPath();
      context.arc(
        margin + (points[2 * i] / cloud.max) * (width - 2 * margin),
        height - margin - (points[2 * i + 1] / cloud.max) * (height - 2 * margin),
        radius, 0, 2 * Math.PI,
      );
    };
    return { context, disc, scale: Math.max(0.7, Math.min(1, width / 480)) };
  };

  const drawPoints = ({ context, disc, scale }, colorOf) => {
    cloud.counts.forEach((count, i) => {
      disc(cloud.points, i, scale * Math.min(5, 1.6 + 0.5 * Math.sqrt(count)));
      context.fillStyle = colorOf(i);
      context.fill();
    });
  };

  const drawCenters = ({ context, disc, scale }, variant) => {
    const style = getComputedStyle(document.documentElement);
    const n = variant.colors.length;
    const radius = scale * (n <= 16 ? 9 : n <= 64 ? 7 : 5);
    variant.colors.forEach((color, i) => {
      disc(variant.centers, i, radius + 1.5);
      context.fillStyle = style.getPropertyValue("--card");
      context.fill();
      disc(variant.centers, i, radius);
      context.fillStyle = color;
      context.fill();
      context.lineWidth = n <= 64 ? 2 : 1.5;
      context.strokeStyle = style.getPropertyValue("--ink");
      context.stroke();
    });
  };

  const draw = () => {
    const variant = cloud.variants[selected()];
    drawPoints(prepare(before), (i) => cloud.colors[i]);
    const canvas = prepare(after);
    drawPoints(canvas, (i) => variant.colors[parseInt(variant.labels.slice(2 * i, 2 * i + 2), 16)]);
    drawCenters(canvas, variant);
  };
  document.querySelectorAll("input[name=k]").forEach((radio) => radio.addEventListener("change", draw));
  document.querySelectorAll("#sizes [data-mark]").forEach((mark) => {
    mark.addEventListener("click", () => document.getElementById(`k-${mark.dataset.mark}`).click());
  });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  new ResizeObserver(draw).observe(before);
})();
