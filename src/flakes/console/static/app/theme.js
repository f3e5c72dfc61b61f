// Runs before the first paint, so that nothing flashes: the theme that somebody chose, if any.
(function () {
  try {
    const chosen = localStorage.getItem("flakes.theme");
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  } catch { /* storage may be closed to us */ }
})();
