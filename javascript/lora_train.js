// The browser side of the tab: it polls the server while a run trains, updates the plan when a setting changes, and
// uploads dropped files. Outside the tab it does two things a user could do: it refreshes the WebUI's Lora pages when a
// run is over, and fills in the X/Y/Z plot of txt2img when asked to.
(function () {
    "use strict";

    if (window.loraTrain) return;

    const BUSY_MS = 1000;
    const IDLE_MS = 10000;
    const OTHER_TAB_MS = 5000; // a run continues in another tab of the WebUI: its end refreshes the Lora pages
    const TIMEOUT_MS = 15000; // a reply that takes longer never comes: the server was restarted
    const TYPING_MS = 600;
    const FILES_PER_UPLOAD = 16;

    function app() {
        return typeof gradioApp === "function" ? gradioApp() : document;
    }

    function inTab(selector) {
        return app().querySelector("#lora_train_tab " + selector);
    }

    function isVisible() {
        const tab = app().querySelector("#lora_train_tab");
        return Boolean(tab) && !document.hidden && tab.getClientRects().length > 0;
    }

    // The WebUI translates elements when they are added, and not when their text changes.
    function localize() {
        const tab = app().querySelector("#lora_train_tab");
        const translated = typeof hasLocalization === "function" && hasLocalization();
        if (tab && translated && typeof processNode === "function") processNode(tab);
    }

    function translated(text) {
        return (window.localization && window.localization[text]) || text;
    }

    // Requests. Gradio ignores clicks on a button while it waits for the reply to an earlier click, so a request that
    // is due in the meantime is sent after the reply.

    function request(selector) {
        const state = { sent: 0, isPending: false, isDue: false };
        state.send = function () {
            const button = inTab(selector);
            state.isDue = state.isPending;
            if (!button || (state.isPending && Date.now() - state.sent < TIMEOUT_MS)) return;
            state.isPending = true;
            state.sent = Date.now();
            button.click();
        };
        state.replied = function () {
            state.isPending = false;
            if (state.isDue) state.send();
        };
        return state;
    }

    const poll = request("#lora_train_poll");
    const planUpdate = request("#lora_train_update_plan");
    const measurement = request("#lora_train_measure");
    let typingTimer = null;
    let runsOver = "0";
    let wasVisible = false;

    function settingsChanged() {
        clearTimeout(typingTimer);
        typingTimer = setTimeout(planUpdate.send, TYPING_MS);
    }

    function planUpdated() {
        localize();
        planUpdate.replied();
        measurement.send();
    }

    function pollStatus() {
        const element = inTab("#lora_train_poll_status");
        return element ? element.dataset : { busy: "0", over: "0", announcement: "" };
    }

    function polled() {
        const live = inTab("#lora_train_live");
        const status = pollStatus();
        if (live && live.textContent !== status.announcement) live.textContent = status.announcement;
        // Also after the page was loaded: the browser may show cards from before the run ended.
        if (status.over !== runsOver) refreshLoraPages();
        runsOver = status.over;
        localize();
        poll.replied();
    }

    function refreshLoraPages() {
        ["txt2img", "img2img"].forEach(function (page) {
            const button = app().querySelector("#" + page + "_lora_extra_refresh");
            if (button) button.click();
        });
    }

    setInterval(function () {
        const visible = isVisible();
        const appeared = visible && !wasVisible;
        const age = Date.now() - poll.sent;
        const busy = pollStatus().busy === "1";
        const interval = !visible ? OTHER_TAB_MS : busy ? BUSY_MS : IDLE_MS;
        wasVisible = visible;
        addUploadListeners();
        if (document.hidden || (poll.isPending && age < TIMEOUT_MS)) return;
        if (appeared) settingsChanged();
        const isFollowed = visible || busy || poll.sent === 0;
        if (appeared || (isFollowed && age >= interval - 50)) poll.send();
    }, BUSY_MS / 2);

    // Uploads use the same request as Gradio's own components. The paths on the server go into a hidden text box.

    function uploadAddress() {
        const root = (window.gradio_config && window.gradio_config.root) || "";
        return root.replace(/\/$/, "") + (root ? "/upload" : "upload");
    }

    async function upload(files) {
        const status = inTab("#lora_train_upload_status");
        const paths = [];
        try {
            for (let i = 0; i < files.length; i += FILES_PER_UPLOAD) {
                status.textContent = "Uploading: " + i + " of " + files.length;
                const form = new FormData();
                files.slice(i, i + FILES_PER_UPLOAD).forEach(function (file) { form.append("files", file, file.name); });
                const reply = await fetch(uploadAddress(), { method: "POST", body: form, credentials: "same-origin" });
                if (!reply.ok) throw new Error("HTTP status " + reply.status);
                paths.push.apply(paths, await reply.json());
            }
        } catch (error) {
            status.textContent = "The upload failed (" + error.message + "). Drop the files again.";
            return;
        }
        status.textContent = "";
        enter(inTab("#lora_train_uploaded textarea, #lora_train_uploaded input"), JSON.stringify(paths));
    }

    function addUploadListeners() {
        const zone = inTab("#lora_train_drop");
        if (!zone || zone.dataset.ready) return;
        zone.dataset.ready = "yes";
        const input = zone.querySelector("input");
        input.addEventListener("change", function () {
            upload(Array.from(input.files));
            input.value = "";
        });
        zone.addEventListener("dragover", function (event) {
            event.preventDefault();
            zone.classList.add("lora_train_dragover");
        });
        zone.addEventListener("dragleave", function () { zone.classList.remove("lora_train_dragover"); });
        zone.addEventListener("drop", function (event) {
            event.preventDefault();
            event.stopPropagation();
            zone.classList.remove("lora_train_dragover");
            upload(Array.from(event.dataTransfer.files));
        });
    }

    // The X/Y/Z plot is filled in step by step, as a user would do it; each step waits for the one before.

    function until(condition) {
        return new Promise(function (resolve, reject) {
            const started = Date.now();
            (function check() {
                const found = condition();
                if (found) return resolve(found);
                if (Date.now() - started > 5000) return reject(new Error("the X/Y/Z plot does not respond"));
                setTimeout(check, 50);
            })();
        });
    }

    function enter(input, text) {
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

    async function fillInPlot(json) {
        let values;
        try {
            values = JSON.parse(json);
        } catch (error) {
            return; // the server reported an error, which the tab shows
        }
        const page = app().querySelector("#tab_txt2img");
        if (!page || !openTab(["txt2img", "Txt2img"])) throw new Error("there is no txt2img tab"); // Forge writes a capital
        const generation = page.querySelector("#txt2img_extra_tabs > .tab-nav > button");
        if (generation) generation.click(); // not the page of Lora cards, which hides the scripts
        const script = await until(function () { return page.querySelector("#script_list"); });
        await choose(script, "X/Y/Z plot");
        const csv = await until(function () { return page.querySelector("#script_txt2img_xyz_plot_csv_mode input"); });
        if (!csv.checked) csv.click();
        for (const axis of ["x", "y", "z"]) {
            await choose(page.querySelector("#script_txt2img_xyz_plot_" + axis + "_type"), values[axis].label);
        }
        await enterValues(page, values);
        await enterSettings(page, values.txt2img);
    }

    function openTab(titles) {
        const known = titles.concat(titles.map(translated));
        const tabs = Array.from(app().querySelectorAll("#tabs > .tab-nav > button"));
        const button = tabs.find(function (tab) { return known.includes(tab.textContent.trim()); });
        if (button) button.click();
        return Boolean(button);
    }

    async function enterSettings(page, settings) {
        for (const [name, value] of Object.entries(settings || {})) {
            const part = page.querySelector("#txt2img_" + name);
            if (!part) continue; // an older WebUI has no scheduler
            if (["sampling", "scheduler"].includes(name)) {
                await choose(part, value);
            } else {
                enter(part.querySelector("textarea, input[type=number]"), value);
            }
        }
    }

    // The WebUI sets the values again after each choice above, so they are entered until they stay.
    async function enterValues(page, values) {
        for (let unchanged = 0, tries = 0; unchanged < 5 && tries < 60; tries += 1) {
            unchanged += 1;
            for (const axis of ["x", "y", "z"]) {
                const field = page.querySelector("#script_txt2img_xyz_plot_" + axis + "_values textarea");
                const text = [].concat(values[axis].values).map(quoted).join(", ");
                if (!field || field.getClientRects().length === 0) {
                    unchanged = 0;
                } else if (field.value !== text) {
                    enter(field, text);
                    unchanged = 0;
                }
            }
            await new Promise(function (resolve) { setTimeout(resolve, 250); });
        }
    }

    function quoted(value) {
        return /[",]/.test(value) ? '"' + value.replaceAll('"', '""') + '"' : value;
    }

    function sendToPlot(json) {
        fillInPlot(json).catch(function (error) {
            console.error("LoRA Train: " + error.message);
            openTab(["LoRA Train"]);
            const notice = inTab("#lora_train_comparison_notice p");
            if (!notice) return;
            notice.className = "lora_train_error";
            notice.textContent = "The X/Y/Z plot in txt2img could not be filled in. Choose the axes [LoRA Train] there yourself.";
        });
    }

    window.loraTrain = {
        localize,
        settingsChanged,
        planUpdated,
        measured: measurement.replied,
        poll: poll.send,
        polled,
        sendToPlot,
    };
})();
