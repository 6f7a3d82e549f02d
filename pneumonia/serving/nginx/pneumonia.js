// Requests are checked and written anew before they reach `mlflow models serve`; whoever is refused gets one sentence,
// without a word of the request in it.

const TABLES = ['dataframe_records', 'dataframe_split', 'instances', 'inputs'];
const PARAMS = ['explain', 'any_dicom', 'errors'];
const MAX_COMMAS = 20000; // a thousand records, the model's limit, with some columns; many small values cost much memory
// Of a film as a file; which of them it is the model sees by its bytes.
const FILE = /^(image\/[\w.+-]{1,50}|application\/dicom|application\/octet-stream)\s*(;|$)/i;
const OF_THE_MODEL = /^(record \d+: |a request must hold |with explain |the request has no records )/;

function isObject(value) {
    return value !== null && typeof value === 'object' && !Array.isArray(value);
}

function imagesOfRecords(kind, rows) {
    if (!Array.isArray(rows) || !rows.every(isObject)) {
        throw new Error(`${kind} must be a list of objects`);
    }
    return rows.map((row) => row.image);
}

// Films in a plain list, each by itself or in a list of its own.
function imagesOfList(kind, rows) {
    if (!Array.isArray(rows) || rows.every(isObject)) {
        return imagesOfRecords(kind, rows);
    }
    const images = rows.map((row) => (Array.isArray(row) && row.length === 1 ? row[0] : row));
    if (!images.every((image) => typeof image === 'string')) {
        throw new Error(`${kind} must be a list of films in base64, or of objects`);
    }
    return images;
}

function imagesOfSplit(table) {
    if (!isObject(table) || !Array.isArray(table.columns) || !Array.isArray(table.data)) {
        throw new Error('dataframe_split must be an object with lists of columns and data');
    }
    const at = table.columns.indexOf('image');
    if (at === -1 || at !== table.columns.lastIndexOf('image')) {
        throw new Error("dataframe_split must have one column 'image'");
    }
    if (!table.data.every((row) => Array.isArray(row) && row.length === table.columns.length)) {
        throw new Error('the data of dataframe_split must be rows with a value for every column');
    }
    return table.data.map((row) => row[at]);
}

function imagesOfInputs(table) {
    if (!isObject(table)) {
        return imagesOfList('inputs', table);
    }
    return Array.isArray(table.image) ? table.image : [table.image];
}

// The films of a request in whichever of MLflow's forms; what is wrong with a film itself the model says.
function imagesOf(body) {
    if (!isObject(body)) {
        throw new Error('the body must be a JSON object');
    }
    const kinds = TABLES.filter((name) => name in body);
    if (kinds.length !== 1 || Object.keys(body).some((name) => name !== kinds[0] && name !== 'params')) {
        throw new Error(`the body must hold one of ${TABLES.join(', ')}, and may hold params`);
    }
    const table = body[kinds[0]];
    switch (kinds[0]) {
    case 'dataframe_split':
        return imagesOfSplit(table);
    case 'inputs':
        return imagesOfInputs(table);
    case 'instances':
        return imagesOfList('instances', table);
    default:
        return imagesOfRecords(kinds[0], table);
    }
}

// MLflow drops params that it does not know, and echoes those of a wrong type.
function paramsOf(body) {
    const given = 'params' in body && body.params !== null ? body.params : {};
    if (!isObject(given) || Object.keys(given).some((name) => !PARAMS.includes(name))) {
        throw new Error(`params may hold ${PARAMS.join(', ')} only`);
    }
    const params = {};
    PARAMS.forEach((name) => {
        const value = name in given && given[name] !== null ? given[name] : false;
        if (name === 'errors') {
            if (value && !['raise', 'return'].includes(value)) {
                throw new Error('params.errors must be raise or return');
            }
        } else if (typeof value !== 'boolean') {
            throw new Error(`params.${name} must be true or false`);
        }
        if (value) { // a version of before does not know it
            params[name] = value;
        }
    });
    return params;
}

function parsed(bytes) {
    let text;
    try {
        text = new TextDecoder('utf-8', {fatal: true}).decode(bytes);
    } catch (error) {
        throw new Error('the body is not valid UTF-8');
    }
    for (let count = 0, at = text.indexOf(','); at !== -1; at = text.indexOf(',', at + 1)) {
        if (++count > MAX_COMMAS) {
            throw new Error('the body holds too many values');
        }
    }
    try {
        return JSON.parse(text);
    } catch (error) {
        throw new Error('the body is not valid JSON, or nested too deeply');
    }
}

// What the model is asked. A key that was given twice, or a number of 5,000 digits, is no longer there.
function rewritten(bytes) {
    const body = parsed(bytes);
    const records = imagesOf(body).map((image) => ({image: image === undefined ? null : image}));
    return JSON.stringify({dataframe_records: records, params: paramsOf(body)});
}

// The params of a film that is sent as a file, from the address: ?explain=true
function paramsOfAddress(args) {
    const given = {};
    Object.keys(args).forEach((name) => {
        given[name] = name !== 'errors' && ['true', 'false'].includes(args[name]) ? args[name] === 'true' : args[name];
    });
    return paramsOf({params: given});
}

function requestOfFile(r) {
    const params = JSON.stringify(paramsOfAddress(r.args)); // refused before the work of base64
    const isEmpty = !r.requestBuffer || !r.requestBuffer.byteLength; // which njs does not turn into text
    const image = isEmpty ? '' : r.requestBuffer.toString('base64');
    return `{"dataframe_records": [{"image": "${image}"}], "params": ${params}}`;
}

function answer(r, status, body) {
    r.headersOut['Content-Type'] = 'application/json';
    r.return(status, body);
}

function refuse(r, status, code, message) {
    answer(r, status, JSON.stringify({error_code: code, message: message}));
}

function isOfTheModel(reply) {
    try {
        const body = JSON.parse(reply.responseText);
        return Object.keys(body).sort().join() === 'error_code,message' && OF_THE_MODEL.test(body.message);
    } catch (error) {
        return false;
    }
}

async function invocations(r) {
    if (r.method !== 'POST') {
        r.headersOut['Allow'] = 'POST';
        return refuse(r, 405, 'BAD_REQUEST', 'films are sent by POST');
    }
    const kind = r.headersIn['Content-Type'] || '';
    const isFile = FILE.test(kind);
    if (!isFile && !/^application\/json\s*(;\s*charset="?utf-8"?\s*)?$/i.test(kind)) {
        return refuse(r, 415, 'BAD_REQUEST', 'the Content-Type must be application/json, or image/jpeg, image/png or application/dicom');
    }
    let request;
    try {
        request = isFile ? requestOfFile(r) : rewritten(r.requestBuffer);
    } catch (error) {
        return refuse(r, 400, 'BAD_REQUEST', error.message);
    }
    const reply = await r.subrequest('/score', {method: 'POST', body: request});
    if (reply.status === 502 || reply.status === 504) {
        return refuse(r, reply.status, 'TEMPORARILY_UNAVAILABLE', 'the scoring server does not answer');
    }
    if (reply.status === 200 || isOfTheModel(reply)) {
        return answer(r, reply.status, reply.responseBuffer);
    }
    if (reply.status >= 500) {
        return refuse(r, 500, 'INTERNAL_ERROR', 'the scoring server failed on this request; its log says why');
    }
    refuse(r, 400, 'BAD_REQUEST', 'the request cannot be scored');
}

export default {invocations};
