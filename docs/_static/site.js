// Names that the theme leaves out, for readers of the screen.
document.addEventListener("DOMContentLoaded", () => {
  for (const summary of document.querySelectorAll("summary:has(> .toctree-toggle)")) {
    const link = summary.parentElement.previousElementSibling;
    const page = link && link.matches("a") ? link.textContent.trim() : "this page";
    summary.setAttribute("aria-label", `Pages below ${page}`);
  }
  for (const button of document.querySelectorAll(".search-button-field")) {
    button.removeAttribute("aria-label"); // its text is its name
  }
});
