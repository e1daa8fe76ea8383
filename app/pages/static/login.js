// Who follows a link from another site arrives without the cookie, which the browser keeps to itself then (SameSite).
// A request from this page carries it: if it shows that there is a login, go on.
const answer = await fetch(location.href, { redirect: "manual" });
if (answer.type === "opaqueredirect") location.replace(document.querySelector("input[name=next]").value);
