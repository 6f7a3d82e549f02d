// Films are sent to the server that the page is from, a few at a time, in the JSON that MLflow's server takes. What the
// server says is shown as text, never as HTML.

const MOST_FILMS = 1000;
const BATCH_FILMS = 8; // so that the first answers come soon
const BATCH_BYTES = 4_000_000;
const MOST_BYTES = 36_000_000; // of one film, which is a third larger in base64; the server takes 48 MiB
const WAIT_SECONDS = 1; // while the server is busy
const MOST_WAITS = 30;
const COLUMNS = ['path', 'probability', 'label', 'threshold', 'familiarity', 'familiar', 'warning', 'error', 'model'];

const by = (id) => document.getElementById(id);
let films = []; // {file, name, card, state: 'waiting', 'scored' or 'failed', prediction, addresses}
let working = false;
let stopped = false;
let explain = true;
let model = '';

function element(tag, className, text) {
    const made = document.createElement(tag);
    if (className) {
        made.className = className;
    }
    if (text !== undefined) {
        made.textContent = text;
    }
    return made;
}

// --- which model

async function nameModel() {
    let about = {};
    try {
        const answer = await fetch('model');
        about = answer.ok ? await answer.json() : {};
    } catch { // a server without it
    }
    const line = by('model');
    if (!about.name) {
        line.textContent = 'Which version of the model answers, this server does not say.';
        return;
    }
    model = about.version ? `${about.name} version ${about.version}` : about.name;
    line.textContent = `Model: ${model}`;
    if (/^https?:\/\//.test(about.link || '')) {
        const link = element('a', '', 'its card in MLflow');
        link.href = about.link;
        link.rel = 'noreferrer';
        line.append(', ', link);
    }
}

// --- sending

function base64(file) {
    return new Promise((resolve, reject) => {
        const reader = new FileReader();
        reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(',') + 1));
        reader.onerror = () => reject(reader.error);
        file.size ? reader.readAsDataURL(file) : resolve('');
    });
}

class Away extends Error {}

async function ask(images) {
    const params = explain ? {explain: true, errors: 'return'} : {errors: 'return'};
    const body = JSON.stringify({dataframe_records: images.map((image) => ({image})), params});
    for (let waits = 0; ; waits++) {
        let answer;
        try {
            answer = await fetch('invocations', {method: 'POST', headers: {'Content-Type': 'application/json'}, body});
        } catch {
            throw new Away();
        }
        if ([502, 503, 504].includes(answer.status)) {
            throw new Away();
        }
        if (answer.status !== 429 || waits === MOST_WAITS) {
            return answer.json().catch(() => ({message: `the answer of the server cannot be read (HTTP ${answer.status})`}));
        }
        await new Promise((resolve) => setTimeout(resolve, 1000 * WAIT_SECONDS));
    }
}

async function score(batch) {
    const answer = await ask(await Promise.all(batch.map((film) => film.image)));
    const said = answer.predictions ? answer.predictions.map((one) => one.error || '') : [answer.message || ''];
    if (explain && said.some((text) => text.includes('ask without explain'))) { // a network without a map
        explain = false;
        return score(batch);
    }
    if (answer.predictions && answer.predictions.length === batch.length) {
        batch.forEach((film, at) => show(film, answer.predictions[at]));
    } else if (batch.length > 1) { // a version of before answers for the worst film of all
        for (const film of batch) {
            await score([film]);
        }
    } else {
        show(batch[0], {error: (answer.message || 'the server gave no answer').replace(/^record 0: /, '')});
    }
}

// The next films that wait, as many as make a request; those that cannot be sent are done with here.
async function nextBatch() {
    const batch = [];
    let bytes = 0;
    for (const film of films.filter((one) => one.state === 'waiting')) {
        if (batch.length && (batch.length === BATCH_FILMS || bytes + film.file.size > BATCH_BYTES)) {
            break;
        }
        if (film.file.size > MOST_BYTES) {
            show(film, {error: `the film is larger than ${MOST_BYTES / 1e6} MB, the most that this page sends`});
            continue;
        }
        try {
            film.image = await base64(film.file);
        } catch {
            show(film, {error: 'the file cannot be read: is it a folder, or has it changed?'});
            continue;
        }
        batch.push(film);
        bytes += film.file.size;
    }
    return batch;
}

async function work() {
    if (working) {
        return;
    }
    working = true;
    stopped = false;
    let away = false;
    report();
    while (!stopped && !away) {
        const batch = await nextBatch();
        if (!batch.length) {
            break;
        }
        try {
            await score(batch);
        } catch (error) {
            if (!(error instanceof Away)) {
                throw error;
            }
            away = true;
        } finally {
            batch.forEach((film) => delete film.image);
        }
        report();
    }
    working = false;
    report(away ? 'The server does not answer. ' : '');
}

// --- showing

function report(first = '') {
    const count = (state) => films.filter((film) => film.state === state).length;
    const [scored, failed, waiting] = ['scored', 'failed', 'waiting'].map(count);
    const labels = new Map();
    films.filter((film) => film.state === 'scored').forEach(({prediction: {label}}) => {
        labels.set(label, (labels.get(label) || 0) + 1);
    });
    const parts = [...labels].map(([label, number]) => `${number} ${label}`);
    if (failed) {
        parts.push(`${failed} not scored`);
    }
    by('results').hidden = !films.length;
    by('status').textContent = `${first}${scored + failed} of ${films.length} films done` +
        (parts.length ? `: ${parts.join(', ')}` : '');
    by('progress').max = films.length || 1;
    by('progress').value = scored + failed;
    by('progress').hidden = !working;
    by('stop').hidden = !working;
    by('again').hidden = working || !waiting;
    by('download').disabled = !(scored + failed);
    by('films').setAttribute('aria-busy', String(working));
}

const digits = (number) => number.toFixed(3);

// The text below says the same.
function gauge({probability, threshold}, ill) {
    const bar = element('div', ill ? 'gauge ill' : 'gauge');
    const [fill, mark] = [element('span', 'fill'), element('span', 'mark')];
    bar.setAttribute('aria-hidden', 'true');
    fill.style.width = `${100 * probability}%`;
    mark.style.left = `calc(${100 * threshold}% - 1px)`;
    bar.append(fill, mark);
    return bar;
}

// The heatmap with the film over it, through which it shows as strongly as the slider says. Browsers cannot draw a DICOM.
function pictured(film, heatmap) {
    const figure = element('figure', 'picture');
    const address = (blob) => {
        film.addresses.push(URL.createObjectURL(blob));
        return film.addresses.at(-1);
    };
    const image = (blob, className, alt) => {
        const made = element('img', className);
        made.alt = alt;
        made.decoding = 'async';
        made.src = address(blob);
        figure.append(made);
        return made;
    };
    if (!heatmap) {
        image(film.file, '', `the film ${film.name}`).onerror = () => figure.remove();
        return figure;
    }
    const png = new Blob([Uint8Array.from(atob(heatmap), (letter) => letter.charCodeAt(0))], {type: 'image/png'});
    image(png, '', `the film ${film.name} with its heatmap`);
    const plain = image(film.file, 'plain', '');
    plain.loading = 'lazy';
    plain.onerror = () => {
        plain.remove();
        const note = 'Browsers cannot draw this film: it is shown as the server drew it, with its heatmap.';
        film.card.lastElementChild.append(element('p', 'note', note));
    };
    return figure;
}

function show(film, prediction) {
    const {probability, threshold, label, warning, error} = prediction;
    const text = film.card.lastElementChild;
    film.prediction = prediction;
    film.state = error ? 'failed' : 'scored';
    text.querySelector('.note').remove();
    if (error) {
        text.append(element('p', 'error', `Not scored: ${error}.`));
        return;
    }
    const ill = probability >= threshold;
    text.append(
        element('p', ill ? 'verdict ill' : 'verdict', label),
        gauge(prediction, ill),
        element('p', '', `Probability ${digits(probability)}, threshold ${digits(threshold)}`),
    );
    if (typeof prediction.familiar === 'boolean') {
        const known = prediction.familiar ? 'Yes' : 'No';
        const line = `Is this a film that the model knows? ${known} (familiarity ${digits(prediction.familiarity)})`;
        text.append(element('p', prediction.familiar ? '' : 'doubt', line));
    }
    if (warning) {
        text.append(element('p', 'doubt', `Warning: ${warning}.`));
    }
    film.card.prepend(pictured(film, prediction.heatmap));
}

// --- choosing

function add(files) {
    const room = MOST_FILMS - films.length;
    for (const file of files.slice(0, room)) {
        const card = element('li', 'film');
        const text = element('div');
        text.append(element('h2', '', file.name), element('p', 'note', 'Waits'));
        card.append(text);
        films.push({file, name: file.name, card, state: 'waiting', addresses: []});
        by('films').append(card);
    }
    if (files.length > room) {
        alert(`This page takes ${MOST_FILMS} films: ${files.length - room} were left out.`);
    }
    if (files.length) {
        work();
    }
}

function clear() {
    stopped = true;
    films.flatMap((film) => film.addresses).forEach((address) => URL.revokeObjectURL(address));
    films = [];
    by('films').replaceChildren();
    report();
    by('files').focus();
}

// --- the table

// A spreadsheet takes a cell that begins so for a formula.
const harmless = (text) => (/^[=+\-@\t\r]/.test(text) ? `'${text}` : text);
const cell = (value) => {
    const text = typeof value === 'string' ? harmless(value) : String(value ?? '');
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};

function table() {
    const rows = films.filter((film) => film.state !== 'waiting').map((film) => {
        const row = {...film.prediction, path: film.name, model};
        return COLUMNS.map((column) => cell(row[column])).join(',');
    });
    return `${[COLUMNS.join(','), ...rows].join('\r\n')}\r\n`;
}

function download() {
    const link = element('a');
    link.href = URL.createObjectURL(new Blob(['\ufeff', table()], {type: 'text/csv;charset=utf-8'}));
    link.download = 'predictions.csv';
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// --- the controls

by('files').addEventListener('change', (event) => {
    add([...event.target.files]);
    event.target.value = '';
});
by('strength').addEventListener('input', (event) => {
    by('films').style.setProperty('--strength', event.target.value / 100);
});
by('again').addEventListener('click', work);
by('stop').addEventListener('click', () => { stopped = true; });
by('download').addEventListener('click', download);
by('clear').addEventListener('click', clear);
for (const name of ['dragover', 'dragleave', 'drop']) {
    document.addEventListener(name, (event) => {
        event.preventDefault();
        document.body.classList.toggle('over', name === 'dragover');
    });
}
document.addEventListener('drop', (event) => add([...event.dataTransfer.files]));
nameModel();
