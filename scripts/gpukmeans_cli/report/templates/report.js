"use strict";
(() => {
  document.documentElement.classList.add("scripted");

  // The slider: keys and screen readers move the range input, and a pointer moves it from anywhere in the image.
  const compare = document.getElementById("compare");
  const range = document.getElementById("split");
  const split = (percent) => {
    compare.style.setProperty("--split", `${percent}%`);
    range.setAttribute("aria-valuetext", `${range.value} % of the left image`);
  };
  const moveTo = (event) => {
    const box = compare.getBoundingClientRect();
    const percent = Math.min(100, Math.max(0, ((event.clientX - box.left) / box.width) * 100));
    range.value = percent;
    split(percent);
  };
  range.addEventListener("input", () => split(range.value));

  // The zoom: CSS pixels for each pixel of the image, or 0 for the whole image; x and y are its upper left corner.
  const stage = compare.closest(".stage");
  const { width, height } = compare.dataset;
  let zoom = 0, x = 0, y = 0;
  const isPannable = () => stage.classList.contains("pannable");
  const place = (left, top) => {
    const box = compare.getBoundingClientRect();
    const least = [box.width - width * zoom, box.height - height * zoom];
    [x, y] = [left, top].map((offset, axis) => Math.round(Math.min(0, Math.max(least[axis], offset))));
    stage.classList.toggle("pannable", zoom > 0 && Math.min(...least) < -1);
    stage.style.setProperty("--x", `${x}px`);
    stage.style.setProperty("--y", `${y}px`);
  };
  const setZoom = (next) => {
    const before = compare.getBoundingClientRect();
    const scale = zoom || before.width / width;
    const middle = [(before.width / 2 - x) / scale, (before.height / 2 - y) / scale];
    zoom = next;
    stage.classList.toggle("zoomed", zoom > 0);
    stage.style.setProperty("--zoom", zoom);
    const after = compare.getBoundingClientRect();
    place(after.width / 2 - middle[0] * zoom, after.height / 2 - middle[1] * zoom);
  };
  document.querySelectorAll("input[name=zoom]").forEach((radio) => {
    radio.addEventListener("change", () => setZoom(Number(radio.value)));
  });
  new ResizeObserver(() => place(x, y)).observe(compare);

  let grabbed = null;
  compare.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    compare.setPointerCapture(event.pointerId);
    range.focus({ preventScroll: true });
    grabbed = isPannable() && !event.target.closest(".handle") ? [event.clientX - x, event.clientY - y] : null;
    if (!isPannable()) moveTo(event);
  });
  compare.addEventListener("pointermove", (event) => {
    if (!compare.hasPointerCapture(event.pointerId)) return;
    if (grabbed) place(event.clientX - grabbed[0], event.clientY - grabbed[1]);
    else moveTo(event);
  });
  const steps = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  range.addEventListener("keydown", (event) => {
    const step = steps[event.key];
    if (!event.shiftKey || !step || !isPannable()) return;
    event.preventDefault();
    const box = compare.getBoundingClientRect();
    place(x + (step[0] * box.width) / 8, y + (step[1] * box.height) / 8);
  });
  // By default the browser would drag the image and take the focus from the range.
  compare.addEventListener("mousedown", (event) => event.preventDefault());
  split(range.value);

  // Copies of colors and commands. Where a page may not write to the clipboard, the text is selected instead.
  const toast = document.getElementById("toast");
  let clearing;
  const say = (text) => {
    toast.textContent = text;
    clearTimeout(clearing);
    clearing = setTimeout(() => (toast.textContent = ""), 2000);
  };
  document.addEventListener("click", async (event) => {
    const button = event.target.closest(".copy");
    if (!button) return;
    const code = button.querySelector("code") ?? button.previousElementSibling;
    try {
      await navigator.clipboard.writeText(code.textContent);
      say(`Copied ${code.textContent}`);
    } catch {
      getSelection().selectAllChildren(code);
      say("Selected; copy it with Ctrl+C");
    }
  });

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
