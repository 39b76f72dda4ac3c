"""Names on which a model is tried out: which pooling it needs, which dtype gives the same vectors, how large its states are."""

SYNONYMS = (
    ("heart attack", "myocardial infarction"),
    ("high blood pressure", "hypertension"),
    ("stroke", "cerebrovascular accident"),
    ("kidney stone", "nephrolithiasis"),
    ("nosebleed", "epistaxis"),
    ("hives", "urticaria"),
    ("whooping cough", "pertussis"),
    ("chickenpox", "varicella"),
    ("belly pain", "abdominal pain"),
    ("shortness of breath", "dyspnea"),
    ("broken arm", "fracture of arm"),
    ("fever", "Fieber"),
    ("headache", "Kopfschmerzen"),
    ("pneumonia", "neumonía"),
    ("chest pain", "dolor torácico"),
    ("diarrhea", "diarrhée"),
    ("anemia", "貧血"),
    ("cough", "咳嗽"),
    ("sugar disease", "şeker hastalığı"),
    ("asthma", "астма"),
)
SAMPLE_NAMES = [name for pair in SYNONYMS for name in pair]
