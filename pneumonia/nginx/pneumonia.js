// Requests that the model itself never sees, or would see changed: they get one sentence, without their own words in it.

const TABLES = ['dataframe_records', 'dataframe_split', 'instances', 'inputs'];

function isObject(value) {
    return value !== null && typeof value === 'object' && !Array.isArray(value);
}

function isListOf(value, isItem) {
    return Array.isArray(value) && value.every(isItem);
}

// What is wrong with the table of films; what is in its cells the model says itself, and of which record.
function tableFault(kind, table) {
    if (kind === 'inputs') {
        return isObject(table) ? null : 'inputs must be an object of columns';
    }
    if (kind !== 'dataframe_split') {
        return isListOf(table, isObject) ? null : `${kind} must be a list of objects`;
    }
    const known = ['columns', 'data', 'index'];
    if (!isObject(table) || Object.keys(table).some((name) => !known.includes(name))) {
        return 'dataframe_split must be an object of columns and data';
    }
    if (!isListOf(table.columns, (name) => typeof name === 'string')) {
        return 'the columns of dataframe_split must be a list of names';
    }
    const width = table.columns.length;
    if (!isListOf(table.data, (row) => Array.isArray(row) && row.length === width)) {
        return 'the data of dataframe_split must be a list of rows, each with a value for every column';
    }
    return null;
}

// MLflow drops params that it does not know, and echoes those of a wrong type.
function paramsFault(params) {
    if (!isObject(params) || Object.keys(params).some((name) => name !== 'explain')) {
        return 'params may hold explain only';
    }
    if ('explain' in params && typeof params.explain !== 'boolean') {
        return 'params.explain must be true or false';
    }
    return null;
}

function bodyFault(body) {
    if (!isObject(body)) {
        return 'the body must be a JSON object';
    }
    const kinds = TABLES.filter((name) => name in body);
    if (kinds.length !== 1) {
        return `the body must hold one of ${TABLES.join(', ')}`;
    }
    if (Object.keys(body).some((name) => name !== kinds[0] && name !== 'params')) {
        return `the body may hold ${kinds[0]} and params only`;
    }
    return tableFault(kinds[0], body[kinds[0]]) || ('params' in body ? paramsFault(body.params) : null);
}

function answer(r, status, body) {
    r.headersOut['Content-Type'] = 'application/json';
    r.return(status, body);
}

function refuse(r, status, code, message) {
    answer(r, status, JSON.stringify({error_code: code, message: message}));
}

async function invocations(r) {
    if (r.method !== 'POST') {
        r.headersOut['Allow'] = 'POST';
        return refuse(r, 405, 'BAD_REQUEST', 'films are sent by POST');
    }
    if (!/^application\/json\s*(;\s*charset="?utf-8"?\s*)?$/i.test(r.headersIn['Content-Type'] || '')) {
        return refuse(r, 415, 'BAD_REQUEST', 'the Content-Type must be application/json');
    }
    let body;
    try {
        body = JSON.parse(r.requestText);
    } catch (error) {
        return refuse(r, 400, 'BAD_REQUEST', 'the body is not valid JSON, or nested too deeply');
    }
    const fault = bodyFault(body);
    if (fault) {
        return refuse(r, 400, 'INVALID_PARAMETER_VALUE', fault);
    }
    // Written anew, so that the server reads what was checked: a key given twice or a number of 5,000 digits is gone.
    const reply = await r.subrequest('/score', {method: 'POST', body: JSON.stringify(body)});
    if (reply.status === 502 || reply.status === 504) {
        return refuse(r, reply.status, 'TEMPORARILY_UNAVAILABLE', 'the scoring server does not answer');
    }
    if (reply.status >= 500) { // it may hold a stack trace
        return refuse(r, 500, 'INTERNAL_ERROR', 'the scoring server failed on this request; its log says why');
    }
    answer(r, reply.status, reply.responseBuffer);
}

export default {invocations};
