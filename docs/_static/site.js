// Names that the theme leaves out, for readers of the screen.
document.addEventListener("DOMContentLoaded", () => {
  for (const summary of document.querySelectorAll("summary:has(> .toctree-toggle)")) {
    const link = summary.parentElement.previousElementSibling;
    const page = link && link.matches("a") ? link.textContent.trim() : "this page";
    summary.setAttribute("aria-label", `Pages below ${page}`);
  }
  for (const button of document.querySelectorAll(".search-button-field")) {
    button.setAttribute("aria-label", button.textContent.replace(/\s+/g, " ").trim());
  }
});
