"use strict";
// The 3D view of a report: unpacks NiiVue and the volumes when it is opened, and gives both to mouse and keyboard.
(() => {
  const part = (name) => document.getElementById(`viewer-${name}`);
  const panel = part("panel"), canvas = part("canvas"), status = part("status"), choice = part("case");
  const TURN_DEGREES = 10;
  const MOVES = {
    ArrowLeft: [1, 0, 0], ArrowRight: [-1, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0],
    PageUp: [0, 0, 1], PageDown: [0, 0, -1],
  };
  const TURNS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  let scene = null, latest = 0;

  const bytesOf = (text) => Uint8Array.from(atob(text.trim()), (letter) => letter.charCodeAt(0));
  const unpacked = (text) => new Response(
    new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream("gzip")));

  async function start() {
    const { structures, volumes } = JSON.parse(part("data").textContent);
    if (!document.createElement("canvas").getContext("webgl2")) throw new Error("this browser offers no WebGL 2");
    const library = document.createElement("script");
    library.textContent = await unpacked(part("library").textContent).text();
    document.head.append(library);
    const { Niivue, NVImage, SHOW_RENDER } = globalThis.niivue;
    const drawer = new Niivue({
      logLevel: "silent", dragAndDropEnabled: false, scrollRequiresFocus: true, loadingText: "",
      isRadiologicalConvention: true, sagittalNoseLeft: true, multiplanarShowRender: SHOW_RENDER.ALWAYS,
      crosshairColor: [0.9, 0.9, 0.4, 0.8], crosshairWidth: 0.25, crosshairWidthUnit: "percent", fontColor: [0.85, 0.87, 0.9, 1], backColor: [0, 0, 0, 1],
    });
    await drawer.attachToCanvas(canvas, true);
    drawer.onLocationChange = ({ mm, values }) => {
      const [x, y, z] = Array.from(mm, Math.round), found = structures[values[1]?.value - 1];
      status.textContent = `${Math.abs(x)} mm ${x < 0 ? "left" : "right"}, ${Math.abs(y)} mm ${y < 0 ? "back" : "front"}, ` +
        `${Math.abs(z)} mm ${z < 0 ? "down" : "up"} of the middle: ${found ? found.name : "no label"}`;
    };
    return { drawer, NVImage, structures, volumes };
  }

  function colours(structures) {
    const channel = (from) => [0, ...structures.map(({ colour }) => parseInt(colour.slice(from, from + 2), 16))];
    return {
      R: channel(1), G: channel(3), B: channel(5), A: [0, ...structures.map(() => 255)],
      I: [0, ...structures.map((_, i) => i + 1)], labels: ["", ...structures.map(({ name }) => name)],
    };
  }

  async function show(index) {
    const { drawer, NVImage, structures, volumes } = scene, { image, labels } = volumes[index], turn = ++latest;
    const read = async (text, options) =>
      NVImage.loadFromUrl({ url: await unpacked(text).arrayBuffer(), name: "volume.nii", ...options });
    const [grey, classes] = await Promise.all([
      read(image, { colormap: "gray", cal_min: 0, cal_max: 255 }), read(labels, {})]);
    if (turn !== latest) return; // another one was chosen meanwhile
    classes.setColormapLabel(colours(structures));
    for (const volume of [...drawer.volumes].reverse()) drawer.removeVolume(volume);
    for (const volume of [grey, classes]) drawer.addVolume(volume);
    setOpacities();
    drawer.moveCrosshairInVox(0, 0, 0);
    canvas.setAttribute("aria-label", `${choice.selectedOptions[0].textContent}, slices and 3D view`);
    panel.dataset.shown = String(index);
  }

  function setOpacities() {
    if (scene === null || scene.drawer.volumes.length < 2) return;
    scene.drawer.setOpacity(0, Number(part("image").value) / 100);
    scene.drawer.setOpacity(1, Number(part("labels").value) / 100);
  }

  function setView() {
    const { drawer } = scene;
    drawer.setSliceType(part("solid").checked ? drawer.sliceTypeRender : drawer.sliceTypeMultiplanar);
  }

  function press(event) {
    const { drawer } = scene, solid = part("solid").checked || event.shiftKey;
    const turn = solid ? TURNS[event.key] : undefined, move = solid ? undefined : MOVES[event.key];
    if (turn) {
      const [azimuth, elevation] = [drawer.scene.renderAzimuth, drawer.scene.renderElevation];
      drawer.setRenderAzimuthElevation(azimuth + TURN_DEGREES * turn[0], elevation + TURN_DEGREES * turn[1]);
    } else if (move) drawer.moveCrosshairInVox(...move);
    if (turn || move) event.preventDefault();
    if (event.key !== "Tab") event.stopImmediatePropagation(); // NiiVue has keys of its own that the page does not name
  }

  async function open() {
    if (!panel.open || panel.dataset.state) return;
    panel.dataset.state = "loading";
    try {
      scene = await start();
      for (const type of ["keydown", "keyup"]) canvas.parentElement.addEventListener(
        type, (event) => (type === "keydown" ? press(event) : event.stopImmediatePropagation()), { capture: true });
      choice.addEventListener("change", () => show(Number(choice.value)));
      for (const name of ["image", "labels"]) part(name).addEventListener("input", setOpacities);
      for (const name of ["slices", "solid"]) part(name).addEventListener("change", setView);
      await show(Number(choice.value));
      panel.dataset.state = "ready";
    } catch (error) {
      panel.dataset.state = "absent";
      status.textContent = `The 3D view cannot be drawn: ${error.message}. The slices above show the same volumes.`;
    }
  }

  function follow() {
    if (location.hash === "#viewer") panel.open = true;
  }

  panel.addEventListener("toggle", open);
  addEventListener("hashchange", follow);
  follow();
})();
