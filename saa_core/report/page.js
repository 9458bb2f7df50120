// The report: one trace, one map, if the trace has maps.
if (document.querySelector(".map")) {
  drawMap(document.documentElement, JSON.parse(document.getElementById("data").textContent));
}
