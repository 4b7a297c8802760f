// The browser side of the tab: asks for news while there is any, and has the plan made anew when a setting changes.
// It touches nothing outside the tab but for two things a user would do: refresh the WebUI's Lora page when a run is
// over, and fill in txt2img's X/Y/Z plot when asked to.
(function () {
    "use strict";

    const BUSY_MS = 1000;
    const IDLE_MS = 10000;
    const ELSEWHERE_MS = 5000; // a run goes on while the user is in another tab: its end refreshes the Lora page
    const LOST_MS = 15000; // an answer that takes longer will not come: the server was started again
    const TYPING_MS = 600;

    if (window.loraTrain) return;

    let asked = 0;
    let pending = false;
    let lookAgain = false;
    let wasVisible = false;
    let over = "0";
    let typing = null;
    let planning = 0; // since when a plan is awaited
    let planAgain = false;

    function app() {
        return typeof gradioApp === "function" ? gradioApp() : document;
    }

    function inTab(selector) {
        return app().querySelector("#lora_train_tab " + selector);
    }

    function visible() {
        const tab = app().querySelector("#lora_train_tab");
        return Boolean(tab) && !document.hidden && tab.getClientRects().length > 0;
    }

    function beacon() {
        const element = inTab("#lora_train_beacon");
        return element ? element.dataset : { busy: "0", over: "0", say: "" };
    }

    // Gradio passes over a click while it awaits the answer to the one before, here and in replan().
    function look() {
        const button = inTab("#lora_train_tick");
        lookAgain = pending;
        if (!button || (pending && Date.now() - asked < LOST_MS)) return;
        pending = true;
        asked = Date.now();
        button.click();
    }

    function changed() {
        clearTimeout(typing);
        typing = setTimeout(replan, TYPING_MS);
    }

    function replan() {
        const button = inTab("#lora_train_replan");
        planAgain = planning !== 0;
        if (!button || (planAgain && Date.now() - planning < LOST_MS)) return;
        planning = Date.now();
        button.click();
    }

    function planned() {
        planning = 0;
        if (planAgain) replan();
    }

    function ticked() {
        pending = false;
        const live = inTab("#lora_train_live");
        const now = beacon();
        if (live && live.textContent !== now.say) live.textContent = now.say;
        // A page that was just loaded may show the cards of an earlier day as well: the WebUI keeps them.
        if (now.over !== over) refreshLoraPages();
        over = now.over;
        if (lookAgain) look();
    }

    // Files go to the server as Gradio's own components send them, a few at a time; what it called them goes to the tab.

    const AT_ONCE = 16;

    function uploadAddress() {
        const root = (window.gradio_config && window.gradio_config.root) || "";
        return root.replace(/\/$/, "") + (root ? "/upload" : "upload");
    }

    async function upload(files) {
        const note = inTab("#lora_train_uploading");
        const paths = [];
        try {
            for (let i = 0; i < files.length; i += AT_ONCE) {
                note.textContent = "Uploading: " + i + " of " + files.length;
                const form = new FormData();
                files.slice(i, i + AT_ONCE).forEach(function (file) { form.append("files", file, file.name); });
                const answer = await fetch(uploadAddress(), { method: "POST", body: form, credentials: "same-origin" });
                if (!answer.ok) throw new Error("the server answered " + answer.status);
                paths.push.apply(paths, await answer.json());
            }
        } catch (error) {
            note.textContent = "The upload failed (" + error.message + "). Drop the files again.";
            return;
        }
        note.textContent = "";
        type(inTab("#lora_train_dropped textarea, #lora_train_dropped input"), JSON.stringify(paths));
    }

    function listen() {
        const zone = inTab("#lora_train_drop");
        if (!zone || zone.dataset.listens) return;
        zone.dataset.listens = "yes";
        const input = zone.querySelector("input");
        input.addEventListener("change", function () {
            upload(Array.from(input.files));
            input.value = "";
        });
        zone.addEventListener("dragover", function (event) {
            event.preventDefault();
            zone.classList.add("lora_train_over");
        });
        zone.addEventListener("dragleave", function () { zone.classList.remove("lora_train_over"); });
        zone.addEventListener("drop", function (event) {
            event.preventDefault();
            event.stopPropagation();
            zone.classList.remove("lora_train_over");
            upload(Array.from(event.dataTransfer.files));
        });
    }

    function refreshLoraPages() {
        ["txt2img", "img2img"].forEach(function (page) {
            const button = app().querySelector("#" + page + "_lora_extra_refresh");
            if (button) button.click();
        });
    }

    setInterval(function () {
        const isVisible = visible();
        const since = Date.now() - asked;
        const busy = beacon().busy === "1";
        const due = !isVisible ? ELSEWHERE_MS : busy ? BUSY_MS : IDLE_MS;
        const appeared = isVisible && !wasVisible;
        wasVisible = isVisible;
        listen();
        if (document.hidden || (pending && since < LOST_MS)) return;
        if (appeared) changed();
        const follows = isVisible || busy || asked === 0;
        if (appeared || (follows && since >= due - 50)) look();
    }, BUSY_MS / 2);

    // The X/Y/Z plot, filled in as a user would: one step after the other, each waiting for the last to show.

    function until(condition) {
        return new Promise(function (resolve, reject) {
            const started = Date.now();
            (function again() {
                const found = condition();
                if (found) return resolve(found);
                if (Date.now() - started > 5000) return reject(new Error("the X/Y/Z plot did not answer"));
                setTimeout(again, 50);
            })();
        });
    }

    function type(input, text) {
        input.focus();
        input.value = text;
        input.dispatchEvent(new Event("input", { bubbles: true }));
    }

    async function choose(dropdown, label) {
        const input = dropdown.querySelector("input");
        if (input.value === label) return;
        input.focus();
        input.dispatchEvent(new Event("focus"));
        const option = await until(function () {
            return Array.from(dropdown.querySelectorAll("ul li")).find(function (item) {
                return (item.getAttribute("aria-label") || item.textContent.replace("✓", "").trim()) === label;
            });
        });
        option.dispatchEvent(new MouseEvent("mousedown", { bubbles: true }));
        input.blur();
        await until(function () { return input.value === label; });
    }

    async function toPlot(json) {
        let values;
        try {
            values = JSON.parse(json);
        } catch (error) {
            return; // there was a problem, which the tab shows
        }
        const page = app().querySelector("#tab_txt2img");
        const tabs = Array.from(app().querySelectorAll("#tabs > .tab-nav > button"));
        const button = tabs.find(function (tab) { return tab.textContent.trim().toLowerCase() === "txt2img"; }); // Forge writes Txt2img
        if (!page || !button) return;
        button.click();
        const script = await until(function () { return page.querySelector("#script_list"); });
        await choose(script, "X/Y/Z plot");
        const csv = await until(function () { return page.querySelector("#script_txt2img_xyz_plot_csv_mode input"); });
        if (!csv.checked) csv.click();
        for (const axis of ["x", "y", "z"]) {
            const wanted = values[axis];
            await choose(page.querySelector("#script_txt2img_xyz_plot_" + axis + "_type"), wanted.label);
        }
        await fillIn(page, values);
    }

    // The WebUI answers each choice above by setting the values once more, so they are typed until they stay.
    async function fillIn(page, values) {
        for (let calm = 0, tries = 0; calm < 5 && tries < 60; tries += 1) {
            calm += 1;
            for (const axis of ["x", "y", "z"]) {
                const field = page.querySelector("#script_txt2img_xyz_plot_" + axis + "_values textarea");
                const text = [].concat(values[axis].values).map(quoted).join(", ");
                if (!field || field.getClientRects().length === 0) {
                    calm = 0;
                } else if (field.value !== text) {
                    type(field, text);
                    calm = 0;
                }
            }
            await new Promise(function (resolve) { setTimeout(resolve, 250); });
        }
    }

    function quoted(value) {
        return /[",]/.test(value) ? '"' + value.replaceAll('"', '""') + '"' : value;
    }

    window.loraTrain = {
        changed: changed,
        planned: planned,
        look: look,
        ticked: ticked,
        toPlot: function (json) {
            toPlot(json).catch(function (error) { console.error("LoRA Train: " + error.message); });
        },
    };
})();
